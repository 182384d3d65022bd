"""What an input file must look like, judged line by line as it is read. Pure.

Messages name the line and the field and quote nothing: what stands in a file stays there.
"""

import hashlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

import msgspec

from controlplane.batches import sizes
from controlplane.batches.sizes import Size

_FIELDS = msgspec.json.Decoder(dict[str, msgspec.Raw])
_TEXT = msgspec.json.Decoder(str)
_BODY = msgspec.json.Decoder(dict[str, msgspec.Raw])
CUSTOM_ID_CHARS = 512
PROBLEMS_MAX = 100
DIGEST_BYTES = 16


@dataclass(frozen=True)
class Found:
    """A line that may be run. `offset` and `size` in bytes, without the line's end."""

    number: int
    offset: int
    size: int
    model: str
    asks: Size


@dataclass(frozen=True)
class Problem:
    """As an entry of a batch's `errors`."""

    code: str
    line: int | None
    message: str
    param: str | None = None


class _Wrong(Exception):
    def __init__(self, code: str, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.param = param


@dataclass(frozen=True)
class Rules:
    endpoint: str  # what each line's url must be
    knows: Callable[[str], bool]  # whether the key may use a model of that name
    lines_max: int
    line_bytes_max: int


@dataclass
class Place:
    """How far a file was judged: all that is needed to go on from there."""

    offset: int = 0  # bytes; where the next line begins
    number: int = 0  # of the last line
    lines: int = 0  # that are not empty
    problems: list[Problem] = field(default_factory=list)
    seen: set[bytes] = field(default_factory=set)  # of each custom_id so far, a digest
    over: bool = False


def look(
    chunks: Iterable[bytes], rules: Rules, place: Place | None = None, most_bytes: int | None = None
) -> Iterator[Found | Problem]:
    """Each line's verdict, in order, from `place` on, where `chunks` begin; it moves along.

    `over` where the file ends, or there are too many lines or problems; else it stops after
    about so many bytes.
    """
    place = place or Place()
    stop_at = None if most_bytes is None else place.offset + most_bytes
    for offset, end, raw in _lines(chunks, rules.line_bytes_max, place.offset):
        place.number += 1
        place.offset = end
        if raw.strip():
            place.lines += 1
            if place.lines > rules.lines_max:
                place.over = True
                message = f"A batch has at most {rules.lines_max} requests."
                yield _problem(place, "too_many_requests_in_file", message)
                return
            try:
                model, asks = _judge(raw, rules, place.seen)
            except _Wrong as wrong:
                place.over = len(place.problems) + 1 == PROBLEMS_MAX
                yield _problem(place, wrong.code, wrong.message, wrong.param)
                if place.over:
                    return
            else:
                yield Found(place.number, offset, len(raw), model, asks)
        if stop_at is not None and end >= stop_at:
            return
    place.over = True
    if not place.lines:
        place.number = 0
        yield _problem(place, "empty_file", "The input file has no requests.")


def _problem(place: Place, code: str, message: str, param: str | None = None) -> Problem:
    found = Problem(code, place.number or None, message, param)
    place.problems.append(found)
    return found


def parse(raw: bytes) -> tuple[str, bytes]:
    """The custom_id and the body of a line that was found good."""
    fields = _FIELDS.decode(raw)
    return _TEXT.decode(fields["custom_id"]), bytes(fields["body"])


def _lines(chunks: Iterable[bytes], most: int, offset: int) -> Iterator[tuple[int, int, bytes]]:
    """Where each begins, where the next one does, and its content; of a line that is too long,
    as much as shows it. `offset` is where the chunks begin."""
    start = offset
    rest = bytearray()
    for chunk in chunks:
        at = 0
        while (end := chunk.find(b"\n", at)) >= 0:
            rest += chunk[at : min(end, at + most + 1)]
            at = end + 1
            yield start, offset + at, bytes(rest)
            rest.clear()
            start = offset + at
        if len(rest) <= most:
            rest += chunk[at : at + most + 1]
        offset += len(chunk)
    if rest:
        yield start, offset, bytes(rest)


def _judge(raw: bytes, rules: Rules, seen: set[bytes]) -> tuple[str, Size]:
    """The line's model, and how much it asks for. Raises _Wrong."""
    if len(raw) > rules.line_bytes_max:
        message = f"This line is longer than {rules.line_bytes_max} bytes."
        raise _Wrong("line_too_long", message)
    try:
        raw.decode()
        fields = _FIELDS.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise _Wrong("invalid_json_line", "This line is not parseable as valid JSON.") from None
    custom_id = _text(fields, "custom_id")
    if len(custom_id) > CUSTOM_ID_CHARS:
        message = f"custom_id has at most {CUSTOM_ID_CHARS} characters."
        raise _Wrong("invalid_custom_id", message, "custom_id")
    digest = hashlib.sha256(custom_id.encode("utf-8", "surrogatepass")).digest()[:DIGEST_BYTES]
    if digest in seen:
        message = "The custom_id of this request is a duplicate of another request's."
        raise _Wrong("duplicate_custom_id", message, "custom_id")
    seen.add(digest)
    if _text(fields, "method") != "POST":
        raise _Wrong("invalid_method", "The method must be POST.", "method")
    if _text(fields, "url") != rules.endpoint:
        message = f"The url must be the batch's endpoint, {rules.endpoint}."
        raise _Wrong("invalid_url", message, "url")
    return _model(fields, rules)


def _model(fields: dict[str, msgspec.Raw], rules: Rules) -> tuple[str, Size]:
    if "body" not in fields:
        raise _missing("body")
    try:
        body = _BODY.decode(fields["body"])
    except (msgspec.DecodeError, RecursionError):
        raise _Wrong("invalid_type", "body must be a JSON object.", "body") from None
    if "stream" in body and bytes(body["stream"]) == b"true":
        raise _Wrong("unsupported_parameter", "A batch does not stream.", "body.stream")
    model = _text(body, "model", "body.model")
    if not rules.knows(model):
        message = "The model does not exist or the batch's API key has no access to it."
        raise _Wrong("model_not_found", message, "body.model")
    return model, sizes.of(rules.endpoint, body)


def _text(fields: dict[str, msgspec.Raw], name: str, param: str = "") -> str:
    param = param or name
    if name not in fields:
        raise _missing(param)
    try:
        found = _TEXT.decode(fields[name])
    except msgspec.DecodeError:
        raise _Wrong("invalid_type", f"{param} must be a string.", param) from None
    if not found:
        raise _missing(param)
    return found


def _missing(param: str) -> _Wrong:
    return _Wrong("missing_required_parameter", f"Missing required parameter: {param}.", param)
