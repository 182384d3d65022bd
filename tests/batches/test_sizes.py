"""What a request asks for by its body, and the seconds that requests ran. Pure."""

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from controlplane.batches import sizes, spans
from controlplane.batches.sizes import Size
from controlplane.batches.spans import Ran

CHAT, TEXT = "/v1/chat/completions", "/v1/completions"


def size(url: str, **body: Any) -> Size:
    raw = json.dumps({"model": "tiny", **body}).encode()
    return sizes.of(url, msgspec.json.decode(raw, type=dict[str, msgspec.Raw]))


def test_a_prompt_is_a_token_for_four_bytes_of_its_text() -> None:
    words = "word " * 400  # of which a tokenizer makes 400
    found = size(CHAT, messages=[{"role": "user", "content": words}], max_tokens=50)
    assert found.prompt == pytest.approx(2000 / 4 + 9, abs=3)
    assert (found.output, found.media) == (50, False)
    assert size(CHAT).prompt == 1


@pytest.mark.parametrize(
    ("url", "body", "output"),
    [
        (CHAT, {}, None),
        (CHAT, {"max_tokens": 7}, 7),
        (CHAT, {"max_tokens": 9, "max_completion_tokens": 7}, 7),
        (CHAT, {"max_tokens": 7, "n": 3}, 21),
        (CHAT, {"max_tokens": None}, None),
        (CHAT, {"max_tokens": "many"}, None),
        (CHAT, {"max_tokens": -3}, None),
        (CHAT, {"max_tokens": 1e9}, None),
        (CHAT, {"max_tokens": 1 << 40}, sizes.MOST),
        (CHAT, {"max_tokens": 1 << 90}, sizes.MOST),
        ("/v1/responses", {"max_output_tokens": 7}, 7),
        (TEXT, {"prompt": "a"}, sizes.COMPLETION),
        (TEXT, {"prompt": ["a", "b"], "max_tokens": 7}, 14),
        (TEXT, {"prompt": [[1, 2], [3]], "max_tokens": 7}, 14),
        (TEXT, {"prompt": [1, 2, 3], "max_tokens": 7}, 7),
        ("/v1/embeddings", {"input": ["a", "b"]}, 1),
    ],
)
def test_an_answer_gets_as_long_as_is_asked_for(
    url: str, body: dict[str, Any], output: int | None
) -> None:
    assert size(url, **body).output == output


def test_pictures_are_seen_and_words_about_them_are_not() -> None:
    picture = {"type": "image_url", "image_url": {"url": "data:"}}
    assert size(CHAT, messages=[{"role": "user", "content": [picture]}]).media
    said = 'is "image_url" a picture?'
    assert not size(CHAT, messages=[{"role": "user", "content": said}]).media


RAN = st.builds(
    lambda began, took, prompt, output: Ran(began, began + took, prompt, output),
    st.integers(0, 60),
    st.integers(0, 20),
    st.integers(0, 100),
    st.integers(0, 100),
)


@given(st.lists(RAN, max_size=12))
def test_seconds_are_those_in_which_any_ran(ran: list[Ran]) -> None:
    each = {at for one in ran for at in range(int(one.began), int(one.ended))}
    assert spans.seconds(ran) == len(each)
    for wanted in range(1, len(each) + 1):
        until = spans.reached(ran, wanted)
        assert until is not None
        done = spans.work(ran, until)
        assert done.seconds == pytest.approx(wanted)
        assert done.requests <= done.shares + 1e-9 <= len(ran) + 1e-6
    assert spans.reached(ran, len(each) + 1) is None


@given(st.lists(RAN, min_size=1, max_size=12))
def test_at_the_end_all_of_it_is_done(ran: list[Ran]) -> None:
    done = spans.work(ran, max(one.ended for one in ran) + 1)
    assert (done.requests, done.shares) == (len(ran), len(ran))
    assert done.prompt == sum(one.prompt or 0 for one in ran)
    assert done.output == sum(one.output or 0 for one in ran)


def test_of_a_long_answer_a_part_is_in_the_canary() -> None:
    ran = [Ran(0, 40, 10, 100), Ran(40, 140, 10, 100), Ran(0, 5, None, None, done=False)]
    done = spans.work(ran, 60)
    assert (done.seconds, done.requests) == (60, 2)
    assert (done.prompt, done.output, done.shares) == (20, 120, 2.2)
    assert done.counted and (done.mean_prompt, done.mean_output, done.spread) == (10, 100, 0)
    assert not spans.work([*ran, Ran(1, 2, None, None)], 60).counted
