"""Small pure parts."""

import json

import pytest

from gateway import operations, request, usage
from gateway.config import Config, ConfigError
from gateway.limits import Limits
from gateway.request_ids import RequestIds
from gateway.salts import Salts
from gateway.usage import Usage


def test_request_ids_are_of_the_house_unique_and_sort_by_birth() -> None:
    ids = RequestIds()
    drawn = [ids.new() for _ in range(20_000)]
    assert len(set(drawn)) == len(drawn)
    assert [name[:14] for name in drawn] == sorted(name[:14] for name in drawn)
    alphabet = set("0123456789abcdefghjkmnpqrstvwxyz")
    for name in drawn[:100]:
        assert name.startswith("req_")
        assert len(name) == 30
        assert set(name[4:]) <= alphabet


def test_salts_differ_by_organization_and_pepper_and_last() -> None:
    assert Salts(b"a").of("org_1") == Salts(b"a").of("org_1")
    assert len({Salts(b"a").of("org_1"), Salts(b"a").of("org_2"), Salts(b"b").of("org_1")}) == 3
    assert not set(Salts(b"a").of("org_1")) & set("@/\\\0")


@pytest.mark.parametrize(
    ("raw", "found"),
    [
        (b'{"prompt_tokens":3,"completion_tokens":null}', Usage(3, 0, 0)),
        (b'{"prompt_tokens":0,"completion_tokens":0}', Usage(0, 0, 0)),
        (b'{"prompt_tokens":3,"prompt_tokens_details":null}', Usage(3, 0, 0)),
        (b'{"prompt_tokens":3,"prompt_tokens_details":{"cached_tokens":9}}', Usage(3, 3, 0)),
        (b'{"prompt_tokens":-3,"completion_tokens":-1}', Usage(0, 0, 0)),
        (b'{"completion_tokens":3}', None),
        (b'{"prompt_tokens":"3"}', None),
        (b"null", None),
    ],
)
def test_reported_usage(raw: bytes, found: Usage | None) -> None:
    assert usage.decode(raw) == found
    assert usage.last(b'{"a":1,"usage":' + raw + b',"z":{}}') == found


def test_stream_options_of_the_client_are_kept() -> None:
    body = {"model": "m", "messages": [], "stream": True}
    body["stream_options"] = {"include_usage": False, "x": [1]}
    call = request.read(json.dumps(body).encode(), operations.CHAT)
    assert not call.wants_usage
    sent = json.loads(call.wire("ep", "salt"))["stream_options"]
    assert sent == {"include_usage": True, "x": [1], "continuous_usage_stats": True}


def config(**changes: object) -> Config:
    environ = {
        "STOA_GATEWAY_DATABASE_URL": "postgresql://x",
        "STOA_KEY_PEPPER": "p",
        "STOA_GATEWAY_DIR": "/nowhere",
        "STOA_REGION": "eu",
        **{name: str(value) for name, value in changes.items()},
    }
    return Config.from_env(environ)


def test_limits_come_from_the_settings() -> None:
    limits = Limits.of(
        config(STOA_GATEWAY_HOLD_S=7),
        {"STOA_GATEWAY_IDLE_S": "1.5", "STOA_GATEWAY_HEADER_BYTES": "100"},
    )
    assert (limits.hold_s, limits.idle_s, limits.header_bytes) == (7.0, 1.5, 100)
    with pytest.raises(ConfigError, match="STOA_GATEWAY_IDLE_S"):
        Limits.of(config(), {"STOA_GATEWAY_IDLE_S": "long"})
