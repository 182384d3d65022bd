"""uv hears of the package indexes that pip is set up with."""

from pathlib import Path

import pytest

from workers.agent import uv


@pytest.fixture(autouse=True)
def nothing_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = ("FIND_LINKS", "INDEX_URL", "EXTRA_INDEX_URL", "CONFIG_FILE")
    for name in (*(f"PIP_{n}" for n in names), "UV_FIND_LINKS", "UV_DEFAULT_INDEX", "UV_INDEX"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PIP_CONFIG_FILE", str(tmp_path / "pip.conf"))


def test_what_pips_variables_say(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_FIND_LINKS", "/wheels /more")
    monkeypatch.setenv("PIP_INDEX_URL", "https://index.example/simple")
    env = uv.environment()
    assert env["UV_FIND_LINKS"] == "/wheels,/more"
    assert env["UV_DEFAULT_INDEX"] == "https://index.example/simple"


def test_what_pips_file_says(tmp_path: Path) -> None:
    (tmp_path / "pip.conf").write_text("[global]\nextra-index-url = file:///a file:///b\n")
    assert uv.environment()["UV_INDEX"] == "file:///a file:///b"


def test_uvs_own_settings_win(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_INDEX_URL", "https://index.example/simple")
    monkeypatch.setenv("UV_DEFAULT_INDEX", "https://other.example/simple")
    assert uv.environment()["UV_DEFAULT_INDEX"] == "https://other.example/simple"


def test_without_any_the_defaults_hold() -> None:
    env = uv.environment()
    assert not {"UV_FIND_LINKS", "UV_DEFAULT_INDEX", "UV_INDEX"} & env.keys()
    assert env["UV_PYTHON_DOWNLOADS"] == "never"
