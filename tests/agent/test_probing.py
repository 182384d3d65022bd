"""What an engine is asked before anybody else may; tests/flows ask real ones of each kind."""

import io
import wave

import pytest

from workers.agent import probing


def test_the_likeliest_comes_first() -> None:
    paths = [one.path for one in probing.attempts("m")]
    assert paths[:2] == ["/v1/completions", "/v1/audio/transcriptions"]
    pooling = [one.path for one in probing.attempts("m", pooling_first=True)]
    assert pooling[0] == "/v1/embeddings"
    assert sorted(pooling) == sorted(paths)


def test_the_form_holds_a_sound() -> None:
    (one,) = (one for one in probing.attempts("m") if "audio" in one.path)
    _, _, mark = one.content_type.partition("boundary=")
    *_, file, end = one.body.split(f"\r\n--{mark}".encode())
    assert end == b"--\r\n"
    with wave.open(io.BytesIO(file.partition(b"\r\n\r\n")[2])) as sound:
        assert (sound.getframerate(), sound.getnchannels(), sound.getnframes()) == (16_000, 1, 1600)


@pytest.mark.parametrize(
    ("answer", "flawed"),
    [
        (b'{"choices": [{}]}', False),
        (b'{"data": [{}]}', False),
        (b'{"text": "", "usage": {}}', False),  # silence
        (b'{"choices": []}', True),
        (b'{"text": null}', True),
        (b"[]", True),
        (b"<html>", True),
    ],
)
def test_an_answer_without_an_inference(answer: bytes, flawed: bool) -> None:
    assert (probing.flaw(answer) is not None) == flawed
