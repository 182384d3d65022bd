"""Heads and events on their way to addresses of others, over real sockets."""

import hashlib
import hmac
import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest
from django.core import mail
from django.test import override_settings

from compliance import audit
from compliance.log import checkpoints, outbound, sequencer, subscriptions
from compliance.models import AuditEvent, LogAnchor, LogCheckpoint, LogSubscription
from tests.signers import running

NOW = datetime(2026, 3, 14, 9, 26, 53, tzinfo=UTC)
OURS = "org_00000000000000000000000001"

pytestmark = pytest.mark.django_db


def happen(times: int = 1) -> None:
    for n in range(times):
        audit.record(
            actor=audit.Actor("user", "usr_1", "session"),
            action="endpoint.create",
            target=audit.Target("endpoint", f"ep_{n}"),
            log=OURS,
            now=NOW,
        )
    while sequencer.sequence(NOW):
        pass


def subscribe(**more: Any) -> tuple[LogSubscription, str]:
    wish = {"actor": audit.SYSTEM, "owner": OURS, "kind": "events", "via": "webhook", "now": NOW}
    return subscriptions.subscribe(**{**wish, **more})


def deliver(now: datetime = NOW) -> int:
    return subscriptions.deliver_due(now, lambda: False)


class Hook(HTTPServer):
    """Keeps what it is sent and answers with `status`."""

    def __init__(self) -> None:
        self.status = 200
        self.taken: list[tuple[dict[str, str], bytes]] = []
        super().__init__(("127.0.0.1", 0), _Handler)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/in?token=hush"


class _Handler(BaseHTTPRequestHandler):
    server: Hook

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.taken.append((dict(self.headers), body))
        self.send_response(self.server.status)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def hook() -> Iterator[Hook]:
    with Hook() as server, override_settings(LOG_INNER_HOSTS=["127.0.0.1"]):
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def test_events_come_in_order_signed_and_again_until_they_are_taken(hook: Hook) -> None:
    happen(3)  # before: not sent
    one, secret = subscribe(address=hook.url)  # its own event is the first
    assert b"hush" not in bytes(one.sealed)
    happen(450)
    hook.status = 503
    assert deliver() == 0
    one.refresh_from_db()
    assert (one.failures, one.next_index, one.failure) == (1, 3, "the answer was 503")
    assert deliver() == 0 and len(hook.taken) == 1  # not before its time
    hook.status = 204
    assert deliver(NOW + timedelta(seconds=10)) == 3
    bodies = [json.loads(body) for _, body in hook.taken]
    assert bodies[0] == bodies[1]  # at least once
    sent = [event for body in bodies[1:] for event in body["events"]]
    assert [event["metadata"]["sequence"] for event in sent] == list(range(3, 454))
    headers, raw = hook.taken[1]
    seconds, _, mac = headers["Stoa-Signature"].removeprefix("t=").partition(",v1=")
    expected = hmac.new(secret.encode(), f"{seconds}.".encode() + raw, hashlib.sha256)
    assert hmac.compare_digest(mac, expected.hexdigest())
    assert (
        sent[0]["unmapped"]["body"]
        == bytes(AuditEvent.objects.get(action="log.subscribe").body).decode()
    )
    assert deliver(NOW + timedelta(seconds=11)) == 0
    subscriptions.unsubscribe(actor=audit.SYSTEM, subscription=one, now=NOW)
    happen()
    assert deliver(NOW + timedelta(days=1)) == 0
    one.refresh_from_db()
    assert bytes(one.sealed) == b""


def test_what_is_sent_is_ocsf_or_the_event_itself(hook: Hook) -> None:
    subscribe(address=hook.url)
    subscribe(address=hook.url, form="native")
    happen()
    assert deliver() == 2
    ocsf, native = (json.loads(body)["events"][-1] for _, body in hook.taken)
    required = {"activity_id", "actor", "api", "category_uid", "class_uid", "metadata"}
    required |= {"severity_id", "src_endpoint", "time", "type_uid"}  # of API Activity, 1.3.0
    assert required <= ocsf.keys()
    assert (ocsf["class_uid"], ocsf["type_uid"], ocsf["status_id"]) == (6003, 600301, 1)
    assert ocsf["actor"]["user"]["uid"] == "usr_1"
    assert ocsf["time"] == int(NOW.timestamp() * 1000)
    event = AuditEvent.objects.get(action="endpoint.create")
    assert native["body"].encode() == bytes(event.body)
    assert native["log"] == f"localhost/audit/t/{OURS}"


def test_the_day_s_head_is_pushed_once_and_kept_as_an_anchor(hook: Hook) -> None:
    subscribe(kind="heads", address=hook.url)
    assert deliver() == 0  # nothing is signed yet
    with running():
        happen()
        checkpoints.sign_due(NOW)
    later = NOW + timedelta(minutes=1)
    assert deliver(later) == 1
    head = LogCheckpoint.objects.get()
    said = json.loads(hook.taken[0][1])
    assert (said["note"], said["size"]) == (head.note, 2)
    anchor = LogAnchor.objects.get()
    assert (anchor.checkpoint_id, anchor.kind, anchor.place) == (head.id, "webhook", "127.0.0.1")
    assert deliver(later + timedelta(hours=23)) == 0
    assert deliver(later + timedelta(hours=24)) == 1


def test_a_head_may_go_by_mail_where_there_is_a_server() -> None:
    with pytest.raises(subscriptions.Refused, match="STOA_SMTP_HOST"):
        subscribe(kind="heads", via="mail", address="dpo@example.eu")
    with override_settings(EMAIL_HOST="mail.example.eu"), running():
        subscribe(kind="heads", via="mail", address="dpo@example.eu")
        happen()
        checkpoints.sign_due(NOW)
        assert deliver() == 1
    (letter,) = mail.outbox
    assert letter.to == ["dpo@example.eu"] and LogCheckpoint.objects.get().note in letter.body


@contextmanager
def listening(kind: socket.SocketKind) -> Iterator[tuple[socket.socket, int]]:
    with socket.socket(socket.AF_INET, kind) as server:
        server.bind(("127.0.0.1", 0))
        server.settimeout(30)
        if kind == socket.SOCK_STREAM:
            server.listen()
        yield server, server.getsockname()[1]


@override_settings(LOG_INNER_HOSTS=["127.0.0.1"])
def test_syslog_over_tcp_and_udp() -> None:
    with listening(socket.SOCK_STREAM) as (server, port):
        subscribe(via="syslog", address=f"syslog+tcp://127.0.0.1:{port}")
        happen()
        assert deliver() == 1
        connection, _ = server.accept()
        with connection, connection.makefile("rb") as stream:
            received = stream.read()
    frames = []
    while received:
        length, _, rest = received.partition(b" ")
        frames.append(rest[: int(length)].decode())
        received = rest[int(length) :]
    assert len(frames) == 2  # the subscription itself, and what happened
    head, _, text = frames[1].partition(" - ")
    assert head == "<110>1 2026-03-14T09:26:53.000000Z localhost stoa"
    assert text.startswith("endpoint.create - {") and json.loads(text.partition(" - ")[2])
    LogSubscription.objects.all().delete()
    with listening(socket.SOCK_DGRAM) as (server, port):
        subscribe(via="syslog", address=f"syslog+udp://127.0.0.1:{port}")
        happen()
        assert deliver() == 1
        assert server.recv(65_536).startswith(b"<110>1 2026-03-14T09:26:53.000000Z")


@pytest.mark.parametrize(
    ("via", "address"),
    [
        ("webhook", "http://siem.example.eu/"),
        ("webhook", "https://user:pw@siem.example.eu/"),
        ("webhook", "https://[::1"),
        ("webhook", "file:///etc/passwd"),
        ("webhook", "https://siem.example.eu/a b"),
        ("webhook", "https://siem.example.eu:99999/"),
        ("syslog", "syslog+tls://siem.example.eu"),
        ("syslog", "https://siem.example.eu"),
        ("pigeon", "https://siem.example.eu"),
        ("mail", "dpo@example.eu"),
    ],
)
def test_addresses_that_cannot_be_are_refused(via: str, address: str) -> None:
    with pytest.raises(subscriptions.Refused):
        subscribe(via=via, address=address)
    assert not LogSubscription.objects.exists()


@pytest.mark.parametrize(
    "address",
    [
        *("127.0.0.1", "10.1.2.3", "169.254.169.254", "100.64.0.1", "0.0.0.0", "224.0.0.1"),
        *("::1", "fe80::1%eth0", "fd00::1", "::ffff:10.0.0.1", "64:ff9b::a00:1", "2002:a00:1::"),
    ],
)
def test_no_inner_network_is_reached(address: str) -> None:
    assert not outbound.public(address)


def test_a_name_that_leads_inside_is_not_sent_to() -> None:
    assert outbound.public("193.0.6.139") and outbound.public("2001:67c:2e8:22::c100:68b")
    one, _ = subscribe(address="https://localhost/")
    happen()
    assert deliver() == 0
    one.refresh_from_db()
    assert one.failure == "the address is of an inner network"


def test_no_leaf_is_forgotten_when_two_deliver_at_once(hook: Hook) -> None:
    one, _ = subscribe(address=hook.url)
    happen(2)
    stale = LogSubscription.objects.get(id=one.id)
    assert deliver() == 1
    assert not subscriptions.deliver(stale, NOW)  # it has moved on since
    assert len(json.loads(hook.taken[0][1])["events"]) == 3
    assert len(hook.taken) == 1
