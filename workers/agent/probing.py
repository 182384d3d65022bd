"""The smallest inference that an engine offers, whichever kind it is. Pure."""

import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

# An engine of another kind answers so: it has no such path, or a model that cannot do it.
NOT_OFFERED = frozenset({404, 405, 501})
_MARK = "stoa-probe"
_HERTZ = 16_000


@dataclass(frozen=True)
class Attempt:
    path: str
    content_type: str
    body: bytes


def attempts(model: str, *, pooling_first: bool = False) -> list[Attempt]:
    """What to ask until something is offered; the likeliest first."""
    text = {"model": model, "input": "a"}
    generating = [
        _json(
            "/v1/completions", {"model": model, "prompt": "a", "max_tokens": 1, "temperature": 0}
        ),
        _sound("/v1/audio/transcriptions", {"model": model, "max_completion_tokens": "1"}),
    ]
    pooling = [
        _json("/v1/embeddings", text),
        _json("/pooling", text),
        _json("/classify", text),
        _json("/score", {"model": model, "text_1": "a", "text_2": "a"}),
    ]
    return [*pooling, *generating] if pooling_first else [*generating, *pooling]


def flaw(answer: bytes) -> str | None:
    """None when an answer of status 200 holds an inference."""
    try:
        content = json.loads(answer)
    except (ValueError, RecursionError):
        return f"the engine's answer is no JSON: {answer[:100]!r}"
    if isinstance(content, dict) and (
        content.get("choices") or content.get("data") or isinstance(content.get("text"), str)
    ):
        return None
    return f"the engine's answer holds no inference: {answer[:200].decode(errors='replace')}"


def _json(path: str, body: Mapping[str, Any]) -> Attempt:
    return Attempt(path, "application/json", json.dumps(body).encode())


def _sound(path: str, fields: Mapping[str, str]) -> Attempt:
    """A form with a tenth of a second of silence."""
    parts = [
        f'--{_MARK}\r\ncontent-disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'.encode()
        for name, value in fields.items()
    ]
    head = 'content-disposition: form-data; name="file"; filename="probe.wav"'
    parts.append(f"--{_MARK}\r\n{head}\r\ncontent-type: audio/wav\r\n\r\n".encode())
    parts.append(_silence(_HERTZ // 10))
    parts.append(f"\r\n--{_MARK}--\r\n".encode())
    return Attempt(path, f"multipart/form-data; boundary={_MARK}", b"".join(parts))


def _silence(samples: int) -> bytes:
    """A WAV file: one channel of 16-bit samples."""
    size = 2 * samples
    form = struct.pack("<4sIHHIIHH", b"fmt ", 16, 1, 1, _HERTZ, 2 * _HERTZ, 2, 16)
    head = struct.pack("<4sI4s", b"RIFF", 36 + size, b"WAVE")
    return head + form + struct.pack("<4sI", b"data", size) + bytes(size)
