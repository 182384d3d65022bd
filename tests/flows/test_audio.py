"""Sound, and what reads two texts together, by a real vLLM: the paths that no chat model offers."""

import io
import math
import secrets
import socket
import struct
import wave
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from tests.engine_fixtures import more_models
from tests.flows import canary
from tests.flows.conftest import Made
from tests.flows.engine import counters
from tests.flows.stoa import Stoa, until
from workers.agent import kin

pytestmark = [pytest.mark.engine, pytest.mark.xdist_group("flows")]

__all__ = ["more_models"]

MIB = 1 << 20
FRAMES_S = 100  # of a second of sound: what vLLM counts for Whisper
TRANSCRIPTIONS = "/v1/audio/transcriptions"
FEW = {"max_completion_tokens": 12}


def tone(seconds: float, *, hertz: int = 440, rate: int = 16_000, channels: int = 1) -> bytes:
    """A WAV file."""
    once = b"".join(
        struct.pack("<h", round(12_000 * math.sin(math.tau * hertz * step / rate))) * channels
        for step in range(rate)
    )
    file = io.BytesIO()
    with wave.open(file, "wb") as out:
        out.setnchannels(channels)
        out.setsampwidth(2)
        out.setframerate(rate)
        out.writeframes((once * math.ceil(seconds))[: round(seconds * rate) * 2 * channels])
    return file.getvalue()


@dataclass
class Served:
    stoa: Stoa
    sdk: openai.OpenAI
    socket: str  # of the engine that hears

    def hear(self, sound: bytes, **changes: Any) -> Any:
        """OpenAI's answer, with its headers."""
        return self.sdk.audio.transcriptions.with_raw_response.create(
            **{
                "model": "ears",
                "file": ("speech.wav", sound),
                "language": "en",
                "extra_body": FEW,
                **changes,
            }
        )

    def booked(self, request_id: str) -> tuple[dict[str, int], set[str]]:
        """Tokens by meter, and the flags that say how they were counted."""
        tokens = until(lambda: self.stoa.api.tokens(request_id), what=f"{request_id} is booked")
        flags = {flag for row in self.stoa.api.usage(request=request_id) for flag in row["flags"]}
        return tokens, flags

    def post(self, path: str, body: dict[str, Any]) -> httpx.Response:
        return self._ask(path, json=body)

    def form(self, path: str, fields: dict[str, str], sound: bytes) -> httpx.Response:
        """As any program sends it: OpenAI's SDK no longer likes translations."""
        return self._ask(path, data=fields, files={"file": ("speech.wav", sound)})

    def _ask(self, path: str, **body: Any) -> httpx.Response:
        run = self.stoa.run
        headers = {"authorization": f"Bearer {run['api_key']}"}
        return httpx.post(f"{run['gateway_url']}{path}", headers=headers, timeout=60, **body)


@pytest.fixture(scope="module")
def served(stoa: Stoa, kept: Made, more_models: Path) -> Iterator[Served]:
    ears = kept("ears", model=str(more_models / "hears"), engine_args={})
    judge = kept("judge", model=str(more_models / "judges"), engine_args={})
    ears = kept.await_status(ears["id"], "ready")
    kept.await_status(judge["id"], "ready")
    (replica,) = ears["replicas"]
    with stoa.client() as sdk:
        yield Served(stoa, sdk, stoa.socket(replica["id"]))


# --- sound --------------------------------------------------------------------------------------


def test_a_file_is_heard(served: Served) -> None:
    before = counters(served.socket).generation_tokens
    raw = served.hear(tone(2.6))
    answer = raw.parse()
    assert answer.text
    assert answer.usage.to_dict() == {"type": "duration", "seconds": 3}
    assert counters(served.socket).generation_tokens - before == FEW["max_completion_tokens"]
    # The engine tells seconds: their tokens are ours, and flagged so.
    tokens, flags = served.booked(raw.headers["x-request-id"])
    assert flags == {"text"}
    assert tokens["input_tokens"] == 3 * FRAMES_S
    assert tokens["output_tokens"] == math.ceil(len(answer.text) / 4)
    # It is the sound that is heard, at any rate, and not just some form that arrives.
    assert served.hear(tone(2.6)).parse().text == answer.text
    assert served.hear(tone(2.6, hertz=2_900)).parse().text != answer.text
    assert served.hear(tone(2.6, rate=44_100, channels=2)).parse().usage.seconds == 3


def test_a_stream(served: Served) -> None:
    text = served.hear(tone(3)).parse().text
    raw = served.hear(tone(3), stream=True, extra_body=FEW | {"stream_include_usage": True})
    events = [event.to_dict() for event in raw.parse()]
    deltas = [one["choices"][0]["delta"]["content"] for one in events if one["choices"]]
    assert "".join(deltas) == text
    assert len(deltas) > 1
    usage = events[-1]["usage"]
    assert usage["completion_tokens"] == FEW["max_completion_tokens"]
    tokens, flags = served.booked(raw.headers["x-request-id"])
    assert flags == set()
    assert tokens["input_tokens"] == usage["prompt_tokens"] > 3 * FRAMES_S
    assert tokens["output_tokens"] == usage["completion_tokens"]


def test_other_shapes_of_an_answer(served: Served) -> None:
    """Its language is found out, its seconds stand elsewhere, or nowhere."""
    raw = served.hear(tone(3), response_format="verbose_json", language=openai.omit)
    answer = raw.parse()
    assert answer.duration == 3
    assert answer.language
    tokens, flags = served.booked(raw.headers["x-request-id"])
    assert (tokens["input_tokens"], flags) == (3 * FRAMES_S, {"text"})
    reply = served.form("/v1/audio/translations", {"model": "ears", "language": "de"}, tone(3))
    assert reply.status_code == 200, reply.text
    assert reply.json().keys() == {"text"}
    tokens, flags = served.booked(reply.headers["x-request-id"])
    assert tokens["output_tokens"] == math.ceil(len(reply.json()["text"]) / 4) > 0
    assert flags == {"text"}


def test_what_is_no_sound_is_the_engines_to_refuse(served: Served) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        served.hear(b"RIFF")
    assert "audio" in refused.value.message
    with pytest.raises(openai.BadRequestError, match="file size"):
        served.hear(tone(180, rate=44_100, channels=2))


def test_a_long_file_passes_through(served: Served) -> None:
    """Of more than a body in memory may have, the gateway keeps little, however long it is."""
    few = {"max_completion_tokens": 1}
    served.hear(tone(30, rate=96_000, channels=2), extra_body=few)  # what each process needs once
    sound = tone(60, rate=96_000, channels=2)
    assert len(sound) > 20 * MIB
    workers = _processes(served.stoa.pid_of("gateway"))
    before = {pid: _memory(pid, "VmRSS") for pid in workers}
    for pid in workers:
        Path(f"/proc/{pid}/clear_refs").write_text("5")  # the peak starts anew
    assert served.hear(sound, extra_body=few).parse().usage.seconds == 60
    # As much as a body that is kept may have; mostly it is far less.
    assert max(_memory(pid, "VmHWM") - before[pid] for pid in workers) < 10 * MIB


def test_no_sound_reaches_a_disk(served: Served) -> None:
    """Neither while it comes; the engine is sent far more than sockets and the gateway hold."""
    run, word = served.stoa.run, secrets.token_hex(16)
    sound = tone(0.1) + word.encode() * (16 * MIB // len(word))
    mark = secrets.token_hex(8)
    parts = "".join(
        f'--{mark}\r\ncontent-disposition: form-data; name="{name}"{more}\r\n\r\n{value}'
        for name, more, value in (("model", "", "ears\r\n"), ("file", '; filename="a.wav"', ""))
    )
    head = {
        "host": "gateway",
        "authorization": f"Bearer {run['api_key']}",
        "content-type": f"multipart/form-data; boundary={mark}",
        "content-length": str(len(parts) + len(sound) + 100),  # there is more to come
    }
    lines = "".join(f"{name}: {value}\r\n" for name, value in head.items())
    where = httpx.URL(run["gateway_url"])
    with socket.create_connection((where.host, where.port or 80), timeout=60) as connection:
        connection.sendall(f"POST {TRANSCRIPTIONS} HTTP/1.1\r\n{lines}\r\n{parts}".encode())
        connection.sendall(sound)
        assert canary.found(served.stoa, [word]) == {}


def _processes(parent: int) -> list[int]:
    """A process and its children."""
    pids = [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]
    found = (kin.read(pid) for pid in pids)
    return [parent, *(one.pid for one in found if one is not None and one.parent == parent)]


def _memory(pid: int, what: str) -> int:
    """Bytes."""
    status = Path(f"/proc/{pid}/status").read_text()
    (line,) = (line for line in status.splitlines() if line.startswith(f"{what}:"))
    return int(line.split()[1]) << 10


# --- two texts together -------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/rerank", "/v1/rerank", "/v2/rerank"])
def test_a_cross_encoder_ranks(served: Served, path: str) -> None:
    documents = ["a list of files", "the weather", "an open file"]
    asked = {"model": "judge", "query": "open a file", "documents": documents}
    reply = served.post(path, asked)
    assert reply.status_code == 200, reply.text
    found = reply.json()
    scores = [one["relevance_score"] for one in found["results"]]
    assert scores == sorted(scores, reverse=True)
    assert len(set(scores)) == 3
    assert {one["index"]: one["document"]["text"] for one in found["results"]} == dict(
        enumerate(documents)
    )
    tokens, flags = served.booked(reply.headers["x-request-id"])
    assert (tokens["input_tokens"], tokens["output_tokens"]) == (found["usage"]["prompt_tokens"], 0)
    assert flags == set()


def test_a_cross_encoder_scores_as_it_ranks(served: Served) -> None:
    documents = ["a list of files", "the weather"]
    ranked = served.post(
        "/rerank", {"model": "judge", "query": "open a file", "documents": documents}
    )
    expected = {one["index"]: one["relevance_score"] for one in ranked.json()["results"]}
    for path in ("/score", "/v1/score"):
        asked = {"model": "judge", "text_1": "open a file", "text_2": documents}
        reply = served.post(path, asked)
        assert {one["index"]: one["score"] for one in reply.json()["data"]} == pytest.approx(
            expected, abs=0.01
        )
        tokens, flags = served.booked(reply.headers["x-request-id"])
        assert tokens["input_tokens"] == reply.json()["usage"]["prompt_tokens"] > 0
        assert flags == set()


def test_what_these_engines_do_not_offer(served: Served) -> None:
    chat = {"messages": [{"role": "user", "content": "a"}]}
    for model, path, body in (
        ("ears", "/v1/chat/completions", chat),
        ("ears", "/v1/embeddings", {"input": "a"}),
        ("judge", "/v1/chat/completions", chat),
        ("judge", "/v1/embeddings", {"input": "a"}),
    ):
        reply = served.post(path, {"model": model, **body})
        assert (reply.status_code, reply.json()["error"]["code"]) == (404, "unsupported_operation")
