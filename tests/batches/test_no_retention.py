"""Nothing that a request says or is answered is at rest anywhere, whatever becomes of it.

A canary passes through real processes (gateway, web, runner) with PostgreSQL, broker, access log,
metrics and spans, in every field that holds words; then all of them are searched. Files of a
batch, which a project asked to have kept, have it sealed: they too show no hit.
"""

import asyncio
import base64
import json
import os
import signal
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import pytest
import redis
from django.db import connection

from billing.models import UsageInbox
from controlplane.batches.models import FileChunk
from tests.batches.conftest import KEY, Place
from tests.batches.test_openai import ended, upload
from tests.gateway.house import eventually
from tests.gateway.test_traces import Collector, collector
from tests.gateway.wire import Connection, Response
from workers.local.embedded import free_port

__all__ = ["collector"]  # a fixture

CANARY = "CANARY7f3a9cZERO"
CHAT = "/v1/chat/completions"
LIMIT = 1 << 16
HEADERS = {
    "x-stoa-run": CANARY,
    "x-stoa-agent": CANARY,
    "x-request-id": CANARY,
    "user-agent": CANARY,
}


def forms() -> list[bytes]:
    """The canary as it could stand somewhere: plain, in hex, in base64 however it is aligned."""
    plain = CANARY.encode()
    coded = [base64.b64encode(b"x" * n + plain + b"x" * 3)[4 : 4 + 16] for n in range(3)]
    return [plain, plain.hex().encode(), plain.hex().upper().encode(), *coded]


def chat(how: str = "", **more: Any) -> dict[str, Any]:
    """A body with the canary wherever words may stand; `how` the engine behaves."""
    look = {
        "name": "look",
        "description": CANARY,
        "parameters": {"type": "object", "title": CANARY},
    }
    called = {"name": "look", "arguments": json.dumps({"a": CANARY})}
    return {
        "model": "tiny",
        "messages": [
            {"role": "system", "content": CANARY},
            {"role": "user", "content": [{"type": "text", "text": CANARY}]},
            {
                "role": "assistant",
                "content": None,
                "tool_calls": [{"id": "c1", "type": "function", "function": called}],
            },
            {"role": "tool", "tool_call_id": "c1", "content": CANARY},
        ],
        "tools": [{"type": "function", "function": look}],
        "metadata": {"note": CANARY},
        "stop": [CANARY],
        "user": f"tokens=3;say={CANARY};{how}",
    } | more


class Caller:
    """Posts, and remembers whose requests were answered by an engine."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.answered: list[str] = []

    def __call__(
        self, body: Any, *statuses: int, path: str = CHAT, key: str = KEY, engine: bool = True
    ) -> Response:
        with Connection(self.port) as there:
            with suppress(ConnectionError):  # one that is refused early may be closed on us
                there.post(path, body, key=key, headers=HEADERS)
            answer = there.response()
        assert answer.status in statuses, (answer.status, answer.body)
        if engine and answer.status != 503:
            self.answered.append(answer.headers["x-request-id"])
        return answer


def sound(call: Caller) -> None:
    assert CANARY in call(chat(), 200).body.decode()
    assert CANARY in call(chat(stream=True), 200).body.decode()
    call(chat("plain=1"), 200)
    call({"model": "tiny", "prompt": CANARY, "user": f"say={CANARY}"}, 200, path="/v1/completions")
    call({"model": "tiny", "input": CANARY, "instructions": CANARY}, 200, path="/v1/responses")
    said = [{"role": "user", "content": CANARY}]
    typed = {"model": "tiny", "max_tokens": 5, "system": CANARY, "messages": said}
    call(typed, 200, path="/v1/messages")
    call({"model": "tiny", "input": [CANARY]}, 200, path="/v1/embeddings")


def refused(call: Caller) -> None:
    """By the gateway, which says why, and by the engine, whose words may repeat the prompt's."""
    call(f'{{"model":"tiny","messages":["{CANARY}"'.encode(), 400, engine=False)
    call(chat(model=CANARY), 404, engine=False)
    call(chat(), 401, key=f"sk-stoa-{CANARY}", engine=False)
    call(chat(), 404, path=f"/v1/{CANARY}?{CANARY}={CANARY}", engine=False)
    call(chat(prompt=CANARY * (LIMIT // 8)), 413, engine=False)
    call(chat("error=400"), 400)
    call(chat("error=500"), 500)


def broken(call: Caller) -> None:
    """The client leaves; the engine ends, or its core dies, before and within an answer."""
    with Connection(call.port) as there:
        there.post(CHAT, chat("delay=0.2", stream=True), key=KEY, headers=HEADERS)
        there.read_until(CANARY.encode())
    ends = (200, 502, 503)  # 503: after the one before nobody asks this replica for a moment
    for how in ("core=1", "die=1"):
        call(chat(how, stream=True), *ends)
    call(chat("die=0"), *ends)


def batch(place: Place) -> None:
    """Its content is kept as its project asked, and nobody reads it where it lies."""
    asked = {"method": "POST", "url": CHAT}
    lines = [json.dumps({"custom_id": f"c{n}", **asked, "body": chat()}) for n in range(2)]
    api = place.openai
    file = upload(
        api, *lines, json.dumps({"custom_id": CANARY, **asked, "body": chat("error=400")})
    )
    runner = place.django.runner()
    made = api.batches.create(
        input_file_id=file,
        endpoint="/v1/chat/completions",
        completion_window="24h",
        metadata={"night": "one"},
    )
    done = ended(api, made.id)
    assert done.status == "completed"
    assert CANARY in api.files.content(done.output_file_id).text
    assert FileChunk.objects.exists()
    runner.send_signal(signal.SIGKILL)
    runner.wait()


# --- the search ----------------------------------------------------------------------------------


def in_tables(words: Iterable[bytes]) -> list[str]:
    """Tables of which some row, as PostgreSQL writes it (bytes in hex), has one of the words."""
    patterns = [f"%{word.decode()}%" for word in words]
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT c.oid::regclass::text FROM pg_class c JOIN pg_namespace n"
            " ON n.oid = c.relnamespace WHERE c.relkind IN ('r', 'm')"
            " AND n.nspname NOT IN ('pg_catalog', 'information_schema', 'pg_toast')"
        )
        tables = [name for (name,) in cursor.fetchall()]
        assert len(tables) > 100
        hits = []
        for table in tables:
            question = f"SELECT EXISTS (SELECT FROM {table} x WHERE x::text LIKE ANY (%s))"
            cursor.execute(question, [patterns])
            if cursor.fetchone() == (True,):
                hits.append(table)
    return hits


def in_files(folders: Iterable[Path], words: Iterable[bytes]) -> list[str]:
    found = (path for folder in folders for path in folder.rglob("*") if path.is_file())
    return [str(path) for path in found if any(word in path.read_bytes() for word in words)]


def in_broker(words: Iterable[bytes]) -> list[str]:
    """Of Valkey: names and values of whatever kind, as it dumps them itself."""
    there = redis.Redis.from_url(os.environ["BROKER_URL"])
    hits = []
    for name in there.scan_iter(count=1000):
        value = there.dump(name) or b""
        if any(word in name or word in value for word in words):
            hits.append(name.decode(errors="replace"))
    there.close()
    return hits


@pytest.mark.django_db(transaction=True)
def test_a_canary_is_found_nowhere(place: Place, collector: Collector, tmp_path: Path) -> None:
    gateway, metrics = place.gateway, free_port()
    gateway.end(signal.SIGTERM)
    gateway._environ |= {
        "OTEL_EXPORTER_OTLP_ENDPOINT": collector.url,
        "STOA_GATEWAY_METRICS_PORT": str(metrics),
        "STOA_GATEWAY_BODY_LIMIT_BYTES": str(LIMIT),
    }
    gateway.start()
    call = Caller(gateway.port)
    steps: list[Callable[[], None]] = [
        lambda: sound(call),
        lambda: refused(call),
        lambda: batch(place),
        lambda: broken(call),
    ]
    for step in steps:
        step()
    booked = UsageInbox.objects.filter(request_id__in=call.answered)
    eventually(lambda: booked.count() == len(call.answered), within_s=30)
    eventually(lambda: len(collector.spans) >= len(call.answered), within_s=30)
    page = httpx.get(f"http://127.0.0.1:{metrics}/metrics").content
    with Connection(gateway.port) as there:  # felled as it answers
        there.post(CHAT, chat("delay=5", stream=True), key=KEY, headers=HEADERS)
        place.beat.run(_seen(place))
        gateway.end(signal.SIGKILL)
    words = forms()
    told = [*collector.bodies, page]
    assert not [one for one in told if any(word in one for word in words)]
    assert in_files([tmp_path], words) == []
    assert in_tables(words) == []
    assert in_broker(words) == []
    # The search finds what is there: an id of a request is in the books, the log and the spans.
    control = [call.answered[0].encode()]
    assert "billing_usageinbox" in in_tables(control)
    assert any(name.endswith("/log") for name in in_files([tmp_path], control))
    assert any(control[0] in body for body in collector.bodies)
    assert b"stoa_" in page


async def _seen(place: Place) -> None:
    """Until the engine has the newest request."""
    async with asyncio.timeout(10):
        before = len(place.engine.seen)
        while not place.engine.at_once and len(place.engine.seen) == before:
            await asyncio.sleep(0.01)
