"""What a container reaches through its proxy, what it does not, and what is kept of it."""

import asyncio
import signal
import socket
import subprocess
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.agent.egress_stand import Server, Stand, connect_to
from tests.agent.fake_runner import wait_until
from tests.agent.node import spec
from workers.agent import egress
from workers.agent.egress import RULES, Rules
from workers.agent.egress import policy as policy_module
from workers.agent.egress.exchange import Limits
from workers.agent.egress.policy import Outcome, Policy

HTTP = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: keep-alive\r\nx-own: 1\r\n\r\nok"


def run(test: Callable[[Stand], Awaitable[None]], stand: Callable[[], Stand] = Stand) -> None:
    async def whole() -> None:
        async with asyncio.timeout(60), stand() as one:
            await test(one)

    asyncio.run(whole())


async def eventually(holds: Callable[[], bool]) -> None:
    while not holds():
        await asyncio.sleep(0.01)


def test_a_tunnel_to_an_allowed_place_carries_both_ways_and_is_counted() -> None:
    async def test(stand: Stand) -> None:
        stand.allow(stand.place)
        payload = bytes(range(256)) * 2000
        reader, writer = await stand.connect()
        # What is sent before the answer must not be lost.
        writer.write(connect_to(stand.place) + payload)
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200 ")
        assert await reader.readexactly(len(payload)) == payload
        writer.write_eof()  # one half ends, the other is read to its end
        assert await reader.read() == b""
        writer.close()
        await eventually(lambda: bool(stand.lines()))
        (line,) = stand.lines()
        assert (line.replica, line.organization) == ("rep_1", "org_1")
        assert (line.destination, line.address) == (stand.place, "127.0.0.1")
        assert (line.outcome, line.bytes_out, line.bytes_in) == (
            Outcome.REACHED,
            len(payload),
            len(payload),
        )
        stand.proxy.tend()
        (count,) = egress.read_counts(stand.directory)
        assert (count.destination, count.outcome, count.connections) == (stand.place, "reached", 1)
        assert (count.bytes_out, count.bytes_in) == (len(payload), len(payload))

    run(test)


def test_nothing_is_reached_until_it_is_allowed() -> None:
    async def test(stand: Stand) -> None:
        for rules in (
            [],
            ["other.example:443"],
            [f"inside.example:{stand.server.port % 65535 + 1}"],
        ):
            if rules:
                stand.allow(*rules)
            answer = await stand.ask(connect_to(stand.place))
            assert answer.startswith(b"HTTP/1.1 403 ")
            assert b"is not on the organization's list" in answer
        (stand.directory / egress.RULES).write_bytes(b"{")
        assert (await stand.ask(connect_to(stand.place))).startswith(b"HTTP/1.1 403 ")
        assert stand.server.connections == 0
        assert stand.outcomes() == {(stand.place, "not_allowed"): 4}

    run(test)


PRIVATE = [
    *("127.0.0.1", "10.0.0.1", "172.16.9.9", "192.168.1.1", "169.254.169.254", "100.64.0.1"),
    *("0.0.0.0", "224.0.0.1", "240.0.0.1", "255.255.255.255", "192.0.2.1", "198.18.0.1"),
    *("::1", "::", "fe80::1", "fd00:ec2::254", "ff02::1", "2001:db8::1"),
    *("::ffff:127.0.0.1", "::ffff:10.0.0.1", "64:ff9b::7f00:1", "2002:7f00:1::1"),
    *("fe80::1%eth0", "nonsense"),
]


@pytest.mark.parametrize("address", PRIVATE)
def test_a_name_that_leads_inside_is_refused(address: str) -> None:
    async def test(stand: Stand) -> None:
        stand.names["inside.example"] = [address]
        stand.allow(stand.place, networks=())
        answer = await stand.ask(connect_to(stand.place))
        assert answer.startswith(b"HTTP/1.1 403 ")
        assert b"private network" in answer
        assert stand.server.connections == 0
        assert stand.outcomes() == {(stand.place, "private"): 1}

    run(test)


def test_the_internet_is_open_and_this_machine_is_not(tmp_path: Path) -> None:
    policy = Policy(tmp_path)
    assert policy.is_open("1.1.1.1")
    assert policy.is_open("2606:4700:4700::1111")
    for address in PRIVATE:
        assert not policy.is_open(address)


def test_this_machine_is_not_in_the_network_that_it_lies_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(policy_module, "_ours", lambda address: str(address) == "10.20.0.7")
    rules = Rules(networks=("10.20.0.0/16",))
    (tmp_path / RULES).write_bytes(msgspec.json.encode(rules))
    policy = Policy(tmp_path)
    policy.refresh()
    assert policy.is_open("10.20.0.8")
    assert not policy.is_open("10.20.0.7") and not policy.is_open("::ffff:10.20.0.7")


def test_what_the_operator_names_is_open_and_nothing_beside_it() -> None:
    async def test(stand: Stand) -> None:
        stand.allow(stand.place, networks=("127.0.0.1/32", "fd00::/8"))
        stand.proxy.policy.refresh()
        is_open = stand.proxy.policy.is_open
        assert is_open("127.0.0.1") and is_open("::ffff:127.0.0.1") and is_open("fd00::1")
        assert not is_open("127.0.0.2") and not is_open("10.0.0.1")
        # Of several addresses only those that are open are tried.
        stand.names["inside.example"] = ["10.0.0.1", "127.0.0.1"]
        answer = await stand.ask(connect_to(stand.place) + b"hi", eof=True)
        assert answer.endswith(b"\r\n\r\nhi")
        await eventually(lambda: bool(stand.lines()))
        assert stand.lines()[0].address == "127.0.0.1"

    run(test)


def test_what_does_not_answer_or_has_no_address_is_said() -> None:
    async def test(stand: Stand) -> None:
        stand.allow("gone.example:443", "inside.example:1")
        assert (await stand.ask(connect_to("gone.example:443"))).startswith(b"HTTP/1.1 502 ")
        assert (await stand.ask(connect_to("inside.example:1"))).startswith(b"HTTP/1.1 502 ")
        assert stand.outcomes() == {
            ("gone.example:443", "unresolved"): 1,
            ("inside.example:1", "unreachable"): 1,
        }

    run(test)


def test_a_plain_request_is_framed_anew() -> None:
    async def test(stand: Stand) -> None:
        stand.allow(stand.place)
        answer = await stand.ask(
            f"GET http://INSIDE.example:{stand.server.port}/a?b=c HTTP/1.1\r\n"
            "Host: elsewhere.example\r\nProxy-Authorization: Basic x\r\nConnection: x-mine\r\n"
            "X-Mine: 1\r\nX-Kept: 2\r\nProxy-Connection: keep-alive\r\n\r\n".encode()
        )
        head, _, body = answer.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200 ") and body == b"ok"
        assert b"x-own: 1" in head.lower() and b"connection: close" in head.lower()
        line, *headers = stand.server.heard.lower().strip().split(b"\r\n")
        assert line == b"get /a?b=c http/1.1"
        assert sorted(headers) == [
            b"connection: close",
            f"host: {stand.place}".encode(),
            b"x-kept: 2",
        ]

    run(test, lambda: Stand(Server(HTTP)))


@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_passes_in_either_framing(chunked: bool) -> None:
    body = b"x" * 100_000
    framing, sent = f"content-length: {len(body)}", body
    if chunked:
        framing, sent = "transfer-encoding: chunked", b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)
    server = Server(b"HTTP/1.0 201 Created\r\n\r\nall that follows")
    server.body_bytes = len(body)

    async def test(stand: Stand) -> None:
        stand.allow(stand.place)
        head = f"POST http://{stand.place}/x HTTP/1.1\r\nhost: a\r\n{framing}\r\n\r\n".encode()
        answer = await stand.ask(head + sent)
        assert answer.startswith(b"HTTP/1.1 201 ")
        assert b"all that follows" in answer
        assert stand.server.heard.count(b"x") >= len(body)
        assert framing.encode() in stand.server.heard.lower()

    run(test, lambda: Stand(server))


@pytest.mark.parametrize(
    "request_",
    [
        b"GET / HTTP/1.1\r\nHost: inside.example\r\n\r\n",
        b"GET https://inside.example/ HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET http://user@inside.example/ HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET http://inside.example\\@evil.example/ HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET http:///x HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET http://*.inside.example/ HTTP/1.1\r\nHost: a\r\n\r\n",
        b"CONNECT inside.example HTTP/1.1\r\nHost: a\r\n\r\n",
        b"CONNECT *.example.com:443 HTTP/1.1\r\nHost: a\r\n\r\n",
        b"CONNECT inside.example:443 HTTP/1.1\r\nHost: a\r\ncontent-length: 1\r\n\r\nx",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"GET http://inside.example/ HTTP/1.1\r\nHost: a\r\nx: " + b"y" * 40_000,
        b"POST http://inside.example/ HTTP/1.1\r\nHost: a\r\ncontent-length: 1\r\n"
        b"content-length: 2\r\n\r\nx",
    ],
)
def test_what_is_no_request_to_a_proxy_is_answered_so(request_: bytes) -> None:
    async def test(stand: Stand) -> None:
        stand.allow("inside.example:80", "inside.example:443", "*.example.com:443")
        answer = await stand.ask(request_ + b"\r\n\r\n")
        assert answer.startswith(b"HTTP/1.1 400 ")
        assert [outcome for _, outcome in stand.outcomes()] == ["malformed"]

    run(test)


def test_no_second_request_rides_along() -> None:
    """Framed two ways, or with another behind it: the server sees one request, ours."""

    async def test(stand: Stand) -> None:
        stand.allow(stand.place)
        inner = f"GET http://{stand.place}/second HTTP/1.1\r\nhost: a\r\n\r\n".encode()
        first = f"POST http://{stand.place}/first HTTP/1.1\r\nhost: a\r\n"
        for framing in (
            "content-length: 0\r\n",
            "content-length: 4\r\ntransfer-encoding: chunked\r\n",
            "transfer-encoding: chunked\r\ntransfer-encoding: identity\r\n",
        ):
            stand.server.heard = b""
            await stand.ask(f"{first}{framing}\r\n".encode() + b"0\r\n\r\n" + inner)
            assert stand.server.heard.count(b"HTTP/1.1") <= 1
            assert b"/second" not in stand.server.heard.partition(b"\r\n\r\n")[0]

    run(test, lambda: Stand(Server(HTTP)))


def test_a_change_of_the_list_reaches_what_is_under_way() -> None:
    async def test(stand: Stand) -> None:
        stand.allow(stand.place)
        reader, writer = await stand.connect()
        writer.write(connect_to(stand.place) + b"hi")
        await reader.readuntil(b"\r\n\r\nhi")
        stand.allow(stand.place, "other.example:443")
        stand.proxy.tend()
        writer.write(b"still")
        assert await reader.readexactly(5) == b"still"
        stand.allow("other.example:443")
        stand.proxy.tend()
        assert await reader.read() == b""  # cut off
        writer.close()
        assert (await stand.ask(connect_to(stand.place))).startswith(b"HTTP/1.1 403 ")
        stand.allow("*.other.example:443", f"inside.example:{stand.server.port}")
        assert (await stand.ask(connect_to(stand.place), eof=True)).startswith(b"HTTP/1.1 200 ")

    run(test)


def test_who_says_nothing_is_let_go_and_who_comes_too_often_is_told() -> None:
    async def test(stand: Stand) -> None:
        stand.allow(stand.place)
        idle = [await stand.connect() for _ in range(2)]
        await eventually(lambda: len(stand.proxy._tasks) == 2)
        assert (await stand.ask(connect_to(stand.place))).startswith(b"HTTP/1.1 503 ")
        for reader, writer in idle:
            assert await reader.read() == b""
            writer.close()
        assert (await stand.ask(connect_to(stand.place), eof=True)).startswith(b"HTTP/1.1 200 ")
        assert stand.server.connections == 1

    run(test, lambda: Stand(limits=Limits(connections=2, head_s=1.0)))


def test_names_without_end_are_summed() -> None:
    async def test(stand: Stand) -> None:
        for number in range(210):
            await stand.ask(connect_to(f"n{number}.example:443"))
        counts = stand.proxy.counts.all()
        assert len(counts) == 201
        (others,) = [one for one in counts if one.destination == "others"]
        assert others.connections == 10

    run(test)


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    st.lists(
        st.sampled_from(
            [
                *(b"CONNECT ", b"GET ", b"POST ", b"http://", b"inside.example", b":443", b":1"),
                *(b"127.0.0.1", b"[::1]", b" HTTP/1.1\r\n", b" HTTP/1.0\r\n", b"Host: x\r\n"),
                *(b"\r\n", b"\n", b"/", b"\x00", b"\xff", b"content-length: 3\r\n", b"@", b"%"),
                *(b"transfer-encoding: chunked\r\n", b"connection: upgrade\r\n", b"abc"),
            ]
        )
        | st.binary(max_size=20),
        max_size=14,
    ).map(b"".join)
)
def test_whatever_is_sent_reaches_nothing_that_is_not_allowed(data: bytes) -> None:
    """The list has one other place; the server that listens is on none of it."""

    async def test(stand: Stand) -> None:
        stand.names.update({"127.0.0.1": ["127.0.0.1"], "::1": ["::1"]})
        stand.allow("allowed.example:443")
        answer = await stand.ask(data.replace(b":443", f":{stand.server.port}".encode()), eof=True)
        assert answer == b"" or answer.startswith((b"HTTP/1.1 400 ", b"HTTP/1.1 403 "))
        assert stand.server.connections == 0

    run(test)


def test_it_is_a_process_that_the_agent_leaves_rules_for() -> None:
    """As the agent uses it: its own process, in the agent's words, and its counts read back."""
    with (
        tempfile.TemporaryDirectory(prefix="eg-", dir="/tmp") as folder,
        socket.create_server(("127.0.0.1", 0)) as server,
    ):
        directory = Path(folder)
        port = server.getsockname()[1]
        wish = spec(egress=[f"localhost:{port}"], egress_networks=["127.0.0.0/8", "::1/128"])
        assert egress.write_rules(directory, wish)
        assert not egress.write_rules(directory, wish)
        proxy = subprocess.Popen(egress.command(directory))
        try:
            wait_until(lambda: (directory / egress.SOCKET).is_socket(), 60)
            with socket.socket(socket.AF_UNIX) as client:
                client.connect(str(directory / egress.SOCKET))
                client.sendall(connect_to(f"localhost:{port}"))
                assert client.recv(100).startswith(b"HTTP/1.1 200 ")
                wait_until(lambda: bool(egress.read_counts(directory)), 60)
            (count,) = egress.read_counts(directory)
            assert (count.destination, count.outcome) == (f"localhost:{port}", "reached")
            assert count.proxy_id and count.last_at
        finally:
            proxy.send_signal(signal.SIGTERM)
            assert proxy.wait(60) == 0


def test_a_container_is_told_where_its_proxy_is() -> None:
    told = egress.environment()
    assert told["HTTPS_PROXY"] == told["http_proxy"] == f"http://127.0.0.1:{egress.PORT}"
    assert "127.0.0.1" in told["NO_PROXY"] == told["no_proxy"]
