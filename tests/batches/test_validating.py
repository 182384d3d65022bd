"""Input files: every line judged, wherever the chunks are cut, and nothing quoted."""

import itertools
import json
from collections.abc import Iterator
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from controlplane.batches import reading, validating
from controlplane.batches.validating import Found, Place, Problem, Rules

URL = "/v1/chat/completions"
RULES = Rules(URL, {"tiny"}.__contains__, 5, 400)


def line(custom_id: Any = "a", **changes: Any) -> bytes:
    body = changes.pop("body", {"model": "tiny", "messages": []})
    said = {"custom_id": custom_id, "method": "POST", "url": URL, "body": body, **changes}
    return json.dumps(said).encode()


def look(*lines: bytes, rules: Rules = RULES) -> list[Found | Problem]:
    return list(validating.look([b"\n".join(lines)], rules))


def problem(*lines: bytes) -> tuple[str, int | None, str | None]:
    found = look(*lines)[-1]
    assert isinstance(found, Problem)
    assert "secret" not in found.message
    return found.code, found.line, found.param


def test_what_is_wrong_is_told_by_its_line() -> None:
    good = line("first")
    assert problem(good, b"{secret") == ("invalid_json_line", 2, None)
    assert problem(good, b'{"a": "\xff"}') == ("invalid_json_line", 2, None)
    assert problem(good, b"[1]") == ("invalid_json_line", 2, None)
    assert problem(good, b"[" * 100_000) == ("line_too_long", 2, None)
    assert problem(good, line("secret", pad="x" * 400)) == ("line_too_long", 2, None)
    assert problem(good, b"", line("first")) == ("duplicate_custom_id", 3, "custom_id")
    assert problem(line("")) == ("missing_required_parameter", 1, "custom_id")
    assert problem(line(7)) == ("invalid_type", 1, "custom_id")
    assert problem(line(method="GET")) == ("invalid_method", 1, "method")
    assert problem(line(url="/v1/secret")) == ("invalid_url", 1, "url")
    assert problem(line(body=[])) == ("invalid_type", 1, "body")
    assert problem(line(body={})) == ("missing_required_parameter", 1, "body.model")
    assert problem(line(body={"model": "secret"})) == ("model_not_found", 1, "body.model")
    stream = {"model": "tiny", "stream": True}
    assert problem(line(body=stream)) == ("unsupported_parameter", 1, "body.stream")
    assert problem() == ("empty_file", None, None)
    assert problem(b"", b"  \r", b"") == ("empty_file", None, None)
    many = [line(f"{n}") for n in range(6)]
    assert problem(*many) == ("too_many_requests_in_file", 6, None)


def test_a_hundred_problems_are_enough() -> None:
    rules = Rules(URL, {"tiny"}.__contains__, 1_000, 400)
    assert len(look(*[b"{"] * 500, rules=rules)) == validating.PROBLEMS_MAX


@st.composite
def files(draw: st.DrawFn) -> tuple[bytes, list[bytes]]:
    """A file's bytes, and the same cut into chunks anywhere."""
    texts = draw(st.lists(st.text(max_size=12), unique=True, max_size=5))
    ends = [draw(st.sampled_from([b"\n", b"\r\n", b"\n\n"])) for _ in texts]
    lines = [line(text or "empty") for text in texts]
    whole = b"".join(one + end for one, end in zip(lines, ends, strict=True))
    whole = whole.removesuffix(b"\n") if draw(st.booleans()) else whole
    cuts = sorted(draw(st.sets(st.integers(0, len(whole)), max_size=6)))
    bounds = [0, *cuts, len(whole)]
    pairs = itertools.pairwise(bounds)
    return whole, [whole[start:end] for start, end in pairs]


@given(files())
def test_a_line_is_found_again_by_its_place(case: tuple[bytes, list[bytes]]) -> None:
    whole, chunks = case
    rules = Rules(URL, {"tiny"}.__contains__, 50, 10_000)
    found = [one for one in validating.look(chunks, rules) if isinstance(one, Found)]
    asked = [json.loads(one) for one in whole.splitlines() if one.strip()]
    assert len(found) == len({one["custom_id"] for one in asked})
    for one in found:
        custom_id, body = validating.parse(whole[one.offset : one.offset + one.size])
        assert custom_id == asked.pop(0)["custom_id"]
        assert json.loads(body)["model"] == one.model == "tiny"


@given(files(), st.lists(st.integers(0, 10), max_size=3), st.integers(1, 120))
def test_what_is_judged_in_stretches_is_judged_as_one(
    case: tuple[bytes, list[bytes]], bad: list[int], stretch: int
) -> None:
    """Some lines are wrong, some twice there; each stretch begins with what was kept."""
    lines = case[0].split(b"\n")
    for n in bad:
        lines.insert(n, lines[0] if n % 2 else b"{")
    whole, place = b"\n".join(lines), Place()
    found: list[Found | Problem] = []
    while not place.over:
        place = reading._opened(reading._kept(place))
        before = place.offset
        found += validating.look([whole[before:]], RULES, place, stretch)
        assert place.over or place.offset >= before + stretch
    assert found == list(validating.look([whole], RULES))
    assert place.problems == [one for one in found if isinstance(one, Problem)]


def test_a_long_file_is_never_whole_in_memory() -> None:
    """Chunks are asked for as lines are; of an endless line no more than shows it is kept."""

    def endless() -> Iterator[bytes]:
        for _ in range(1000):
            yield b"x" * 10_000
        yield b"\n" + line("behind")

    found = list(validating.look(endless(), RULES))
    assert [type(one) for one in found] == [Problem, Found]
