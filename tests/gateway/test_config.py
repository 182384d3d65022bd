"""Settings: complete, or refused with the name of the one that is wrong."""

from pathlib import Path

import pytest

from gateway.config import Config, ConfigError

GOOD = {
    "STOA_GATEWAY_DATABASE_URL": "postgresql://stoa_gateway:hidden-password@db/stoa",
    "STOA_KEY_PEPPER": "hidden-pepper",
    "STOA_GATEWAY_DIR": "/var/lib/stoa/gateway",
    "STOA_REGION": "eu-de-1",
}


def test_the_least_that_must_be_set_is_enough() -> None:
    config = Config.from_env(GOOD)
    assert (config.host, config.port, config.region) == ("127.0.0.1", 8080, "eu-de-1")
    assert (config.directory_max_age_s, config.hold_s, config.drain_s) == (900, 120, 30)
    assert config.body_limit_bytes == 10 << 20
    assert "hidden" not in repr(config)


@pytest.mark.parametrize("name", GOOD)
def test_a_missing_setting_is_named(name: str) -> None:
    with pytest.raises(ConfigError, match=f"set {name} or {name}_FILE"):
        Config.from_env({**GOOD, name: ""})


def test_a_secret_may_stand_in_a_file(tmp_path: Path) -> None:
    (tmp_path / "pepper").write_text("from a file\n")
    environ = {**GOOD, "STOA_KEY_PEPPER": "", "STOA_KEY_PEPPER_FILE": str(tmp_path / "pepper")}
    assert Config.from_env(environ).pepper == b"from a file"
    environ["STOA_KEY_PEPPER_FILE"] = "/nowhere"
    with pytest.raises(ConfigError, match="STOA_KEY_PEPPER_FILE=/nowhere"):
        Config.from_env(environ)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("STOA_GATEWAY_PORT", "http"),
        ("STOA_GATEWAY_PORT", "70000"),
        ("STOA_DIRECTORY_MAX_AGE_S", "soon"),
        ("STOA_DIRECTORY_MAX_AGE_S", "0"),
        ("STOA_GATEWAY_HOLD_S", "nan"),
        ("STOA_GATEWAY_BODY_LIMIT_BYTES", "-1"),
        ("STOA_GATEWAY_DATABASE_URL", "mysql://x"),
        ("STOA_GATEWAY_ID", "g" * 65),
        ("STOA_GATEWAY_CERTIFICATE", "/nowhere"),
    ],
)
def test_a_wrong_value_is_refused_by_name(name: str, value: str) -> None:
    with pytest.raises(ConfigError, match=name):
        Config.from_env({**GOOD, name: value})


def test_certificates_come_together(tmp_path: Path) -> None:
    (tmp_path / "pem").touch()
    with pytest.raises(ConfigError, match="set all or none"):
        Config.from_env({**GOOD, "STOA_GATEWAY_CERTIFICATE": str(tmp_path / "pem")})
