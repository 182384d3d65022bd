"""Who may call from where, and that no request outlives its key."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway import addresses
from gateway.config import Config, ConfigError
from tests.gateway.rig import KEY, Rig
from tests.gateway.test_config import GOOD

CHAT = "/v1/chat/completions"
HOME = "127.0.0.1/32"
PROXIES = ("10.0.0.0/8", "::1/128")


@pytest.mark.parametrize(
    ("peer", "forwarded", "trusted", "expected"),
    [
        ("192.0.2.1", "", (), "192.0.2.1"),
        ("192.0.2.1", "198.51.100.1", (), "192.0.2.1"),  # anybody may write that
        ("192.0.2.1", "198.51.100.1", PROXIES, "192.0.2.1"),
        ("10.0.0.1", "", PROXIES, "10.0.0.1"),
        ("10.0.0.1", "198.51.100.1", PROXIES, "198.51.100.1"),
        ("::ffff:10.0.0.1", "198.51.100.1", PROXIES, "198.51.100.1"),
        ("10.0.0.1", "203.0.113.9, 198.51.100.1, 10.0.0.2", PROXIES, "198.51.100.1"),
        ("10.0.0.1", "10.0.0.3,10.0.0.2", PROXIES, "10.0.0.3"),
        ("10.0.0.1", "198.51.100.1:4711", PROXIES, "198.51.100.1"),
        ("::1", "[2001:db8::7]:4711", PROXIES, "2001:db8::7"),
        ("::1", "2001:db8::7", PROXIES, "2001:db8::7"),
        ("10.0.0.1", "203.0.113.9, unknown", PROXIES, "unknown"),
        ("10.0.0.1", "203.0.113.9,", PROXIES, ""),
    ],
)
def test_an_address_is_what_a_trusted_proxy_saw(
    peer: str, forwarded: str, trusted: tuple[str, ...], expected: str
) -> None:
    assert addresses.origin(peer, forwarded.encode(), trusted) == expected


@pytest.mark.parametrize(
    ("address", "networks", "inside"),
    [
        ("192.0.2.7", ("192.0.2.0/24",), True),
        ("192.0.3.7", ("192.0.2.0/24", "192.0.3.7/32"), True),
        ("192.0.3.8", ("192.0.2.0/24", "192.0.3.7/32"), False),
        ("::ffff:192.0.2.7", ("192.0.2.0/24",), True),
        ("2001:db8::1", ("192.0.2.0/24", "2001:db8::/32"), True),
        ("fe80::1%eth0", ("fe80::/10",), True),
        ("192.0.2.7", ("::/0",), False),
        ("", ("0.0.0.0/0", "::/0"), False),
        ("unknown", ("0.0.0.0/0", "::/0"), False),
    ],
)
def test_within(address: str, networks: tuple[str, ...], inside: bool) -> None:
    assert addresses.within(address, networks) is inside


def test_trusted_proxies_are_networks() -> None:
    named = {**GOOD, "STOA_GATEWAY_TRUSTED_PROXIES": "10.0.0.0/8, ::1"}
    assert Config.from_env(named).trusted_proxies == ("10.0.0.0/8", "::1/128")
    with pytest.raises(ConfigError, match="STOA_GATEWAY_TRUSTED_PROXIES"):
        Config.from_env({**GOOD, "STOA_GATEWAY_TRUSTED_PROXIES": "10.0.0.1/8"})


@pytest.fixture
def behind() -> Iterator[Rig]:
    """A gateway behind a proxy on this machine."""
    with tempfile.TemporaryDirectory(prefix="gw-") as folder:
        rig = Rig(Path(folder), trusted_proxies=(HOME,))
        rig.endpoint("tiny", [rig.engine("ep_tiny")])
        yield rig
        rig.stop()


def test_a_key_serves_its_networks_alone(rig: Rig) -> None:
    rig.endpoint("tiny", [rig.engine("ep_tiny")])
    rig.key(networks=("192.0.2.0/24", HOME))
    assert rig.chat("tiny").status == 200
    rig.key(networks=("192.0.2.0/24",))
    reply = rig.post(CHAT, {"model": "tiny"}, headers={"x-forwarded-for": "192.0.2.1"})
    assert (reply.status, reply.error["code"]) == (403, "network_not_allowed")
    assert reply.error["type"] == "permission_error"
    assert rig.get("/v1/models").status == 403
    assert len(rig.engines[0].seen) == 1


def test_behind_a_proxy_the_clients_address_counts(behind: Rig) -> None:
    behind.key(networks=("192.0.2.0/24",))
    body = {"model": "tiny", "messages": []}
    for forwarded, status in (("192.0.2.1", 200), ("192.0.2.1, 198.51.100.1", 403)):
        reply = behind.post(CHAT, body, headers={"x-forwarded-for": forwarded})
        assert reply.status == status
    assert behind.post(CHAT, body).status == 403


def test_a_key_that_is_revoked_while_its_body_arrives(rig: Rig) -> None:
    rig.endpoint("tiny", [rig.engine("ep_tiny")])
    head = f"POST {CHAT} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {KEY}\r\n"
    body = b'{"model":"tiny","messages":[]}'
    with rig.connect() as connection:
        connection.send(f"{head}content-length: {len(body)}\r\n\r\n".encode() + body[:5])
        rig.until(lambda: bool(rig.uses.noted))  # the head has been looked at
        rig.keys.clear()
        rig.publish()
        connection.send(body[5:])
        reply = connection.response()
    assert (reply.status, reply.error["code"]) == (401, "invalid_api_key")
    assert rig.engines[0].seen == []


def test_a_key_that_lost_a_model_while_its_request_waits(rig: Rig) -> None:
    rig.endpoint("sleepy")
    engine = rig.engine("ep_sleepy")
    with rig.connect() as connection:
        connection.post(CHAT, {"model": "sleepy", "messages": []}, key=KEY)
        rig.until(lambda: rig.server.context.admission.waiting == 1)
        rig.key(models=frozenset({"other"}))
        rig.change("sleepy", replicas=rig.replicas("sleepy", [engine]))
        reply = connection.response()
    assert (reply.status, reply.error["code"]) == (404, "model_not_found")
    assert engine.seen == []


def test_a_key_that_is_revoked_before_a_second_try(rig: Rig) -> None:
    engines = [rig.engine("ep_two"), rig.engine("ep_two")]
    rig.endpoint("two", engines)
    with rig.connect() as connection:
        body = {"model": "two", "messages": [], "user": "delay=0.5;die=0"}
        connection.post(CHAT, body, key=KEY)
        rig.until(lambda: any(engine.seen for engine in engines))
        rig.keys.clear()
        rig.publish()
        assert connection.response().error["code"] == "invalid_api_key"
    assert sum(len(engine.seen) for engine in engines) == 1
