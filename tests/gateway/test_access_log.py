"""The access log: what stands in a line, what never does, and a reader that has stopped reading."""

import json
import threading
from typing import Any

import msgspec
import pytest

from gateway import access_log
from gateway.access_log import AccessLog, Line
from tests.gateway.rig import KEY, Rig

CHAT = "/v1/chat/completions"
SECRETS = ("alpha-prompt", "beta-system", "gamma-user", "delta-metadata", "epsilon-run")
PERSONAL = {
    "messages": [
        {"role": "system", "content": "beta-system"},
        {"role": "user", "content": "alpha-prompt"},
    ],
    "metadata": {"team": "delta-metadata"},
}


class Paper:
    """What was written. `hold` keeps the writer waiting, as a full pipe would."""

    def __init__(self) -> None:
        self.pieces: list[bytes] = []
        self.taking = threading.Event()
        self.taking.set()

    def write(self, data: bytes) -> None:
        self.taking.wait(10)
        self.pieces.append(data)

    @property
    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in b"".join(self.pieces).splitlines()]


@pytest.fixture
def paper(rig: Rig) -> Paper:
    paper = Paper()

    async def begin() -> None:
        log = rig.server.context.access = AccessLog(paper.write)
        log.start()

    rig.run(begin())
    rig.endpoint("tiny", [rig.engine("ep_tiny")])
    return paper


def test_a_request_is_one_line(rig: Rig, paper: Paper) -> None:
    reply = rig.chat("tiny", stream=True, user="tokens=4;delay=0.02")
    rig.until(lambda: len(paper.lines) == 1)
    (line,) = paper.lines
    assert line["request"] == reply.headers["x-request-id"]
    assert line["time"] > 1_700_000_000
    assert line["ms"] >= line["prefill_ms"] + line["decode_ms"] >= 50
    assert {name: line[name] for name in line if not name.endswith("ms")} == {
        "time": line["time"],
        "request": line["request"],
        "operation": "chat.completions",
        "status": 200,
        "organization": "org_ours",
        "project": "prj_ours",
        "key": "key_abcdefgh",
        "model": "tiny",
        "endpoint": "ep_tiny",
        "replica": "rep_tiny_0",
        "stream": True,
        "finish": "complete",
        "counted_by": "engine",
        "input": 7,
        "cached": 3,
        "output": 4,
    }


def test_refusals_and_ends_say_why(rig: Rig, paper: Paper) -> None:
    rig.chat("alpha-prompt")
    rig.post("/beta-system?gamma-user", b"{}")
    rig.get("/v1/models", key=None)
    rig.chat("tiny", stream=True, user="tokens=9;die=3")
    rig.chat("tiny", user="error=500")
    rig.get("/healthz")
    rig.get("/v1/models")
    rig.until(lambda: len(paper.lines) >= 6)
    found = [
        (line["operation"], line["status"], line.get("code", ""), line.get("finish", ""))
        for line in paper.lines
    ]
    assert found == [
        ("chat.completions", 404, "model_not_found", ""),
        ("other", 404, "unknown_url", ""),
        ("other", 401, "invalid_api_key", ""),
        ("chat.completions", 200, "engine_gone", "engine_gone"),
        ("chat.completions", 500, "engine_error", "engine_error"),
        ("models", 200, "", ""),  # and nothing of the probe
    ]
    text = b"".join(paper.pieces).decode()
    assert not [word for word in SECRETS if word in text]
    assert KEY not in text


def test_nothing_personal_and_no_content(rig: Rig, paper: Paper) -> None:
    headers = {
        "x-stoa-run": "epsilon-run",
        "x-stoa-agent": "epsilon-run",
        "x-request-id": "gamma-user",
        "user-agent": "gamma-user",
        "traceparent": f"00-{'e' * 32}-{'f' * 16}-01",
    }
    for extra in ({}, {"stream": True}):
        rig.post(CHAT, {"model": "tiny", **PERSONAL, **extra}, headers=headers)
    rig.until(lambda: len(paper.lines) == 2)
    text = b"".join(paper.pieces).decode()
    assert not [word for word in (*SECRETS, KEY, KEY[17:], "e" * 32) if word in text]


def test_a_reader_that_stopped_holds_nobody_up(
    rig: Rig, paper: Paper, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(access_log, "_PENDING", 5)
    paper.taking.clear()
    for _ in range(9):
        assert rig.chat("tiny").status == 200
    log = rig.server.context.access
    assert log is not None
    assert log.dropped == 4
    paper.taking.set()
    rig.until(lambda: len(paper.lines) == 5)


def test_lines_of_several_processes_cannot_mix() -> None:
    """A pipe takes PIPE_BUF bytes at once: no piece is longer, and none ends within a line."""
    paper = Paper()
    log = AccessLog(paper.write)
    line = Line(1.0, "req_1", "chat.completions", 200, 1.0, model="m" * 100)
    log.start()
    text = msgspec.json.encode(line) + b"\n"
    log._batches.put((bytearray(text * 1000), 1000))
    log._batches.put(None)
    assert log._thread is not None
    log._thread.join(10)
    assert len(paper.lines) == 1000
    assert all(len(piece) <= 4096 and piece.endswith(b"\n") for piece in paper.pieces)
