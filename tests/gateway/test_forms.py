"""Forms on their way, alone: any cut of the bytes gives the same, and nothing is passed unread."""

import re
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway import forms, operations
from gateway.errors import ApiError
from gateway.request import Call
from gateway.uploads import Upload
from gateway.upstream import Source

MARK = b"xYzZy"


class Wire:
    """Both ends: what the engine got, and whether the client is stopped."""

    def __init__(self) -> None:
        self.data = b""
        self.stopped = False
        self.source: Source | None = None

    def write(self, data: bytes) -> None:
        self.data += data

    def stop(self) -> None:
        self.stopped = True

    def go_on(self) -> None:
        self.stopped = False

    @property
    def body(self) -> bytes:
        """Without the chunks' framing; the last chunk must have been sent."""
        rest, body = self.data, b""
        while True:
            size, _, rest = rest.partition(b"\r\n")
            length = int(size, 16)
            if not length:
                assert rest == b"\r\n"
                return body
            body, rest = body + rest[:length], rest[length + 2 :]

    @property
    def parts(self) -> dict[str, bytes]:
        pieces = re.split(rb"(?:^|\r\n)--xYzZy(?:\r\n|--\r\n$)", self.body)
        assert pieces[0] == pieces[-1] == b""
        found = {}
        for piece in pieces[1:-1]:
            head, _, value = piece.partition(b"\r\n\r\n")
            (name,) = re.findall(rb'; name="([^"]*)"', head)
            assert name.decode() not in found
            found[name.decode()] = value
        return found


def part(name: str, value: bytes, *, file: bool = False) -> bytes:
    more = b'; filename="a.wav"\r\nContent-Type: audio/wav' if file else b""
    head = b'--%b\r\nContent-Disposition: form-data; name="%b"%b' % (MARK, name.encode(), more)
    return head + b"\r\n\r\n" + value + b"\r\n"


def form(*parts: bytes) -> bytes:
    return b"".join(parts) + b"--%b--\r\n" % MARK


def upload(wire: Wire, held_max: int = 1 << 20) -> Upload:
    return Upload(MARK, wire, held_max)


def sent(data: bytes, cuts: list[int], default_model: str = "") -> tuple[Call, Wire]:
    """All of it, begun as soon as it can be."""
    wire = Wire()
    up = upload(wire)
    if default_model:
        up.admit = lambda name: None
    call: Call | None = None
    bounds = sorted({0, len(data), *(cut for cut in cuts if cut < len(data))})
    for start, end in pairwise(bounds):
        up.feed(data[start:end])
        if call is None and up.ready:
            call = up.call(operations.TRANSCRIPTIONS, default_model)
            head = up.open(call, "ep_1", "req_1")
            assert b'boundary="xYzZy"' in head
            assert up.attach(wire)
    up.end()
    assert call is not None
    return call, wire


CONTENT = st.binary(max_size=300) | st.sampled_from(
    [b"", b"\r\n", b"\r\n--xYzZ", b"--xYzZy", b"\r\n--xYzZ\r\n--xYzZy"[:-1], b"\r\n\r\n--"]
)


@given(
    content=CONTENT.filter(lambda data: b"\r\n--xYzZy" not in b"\r\n" + data),
    cuts=st.lists(st.integers(0, 1200), max_size=12),
    order=st.permutations(["file", "model", "language", "stream", "temperature"]),
    based=st.booleans(),
)
def test_any_cut_and_order_gives_the_same(
    content: bytes, cuts: list[int], order: list[str], based: bool
) -> None:
    values = {"model": b"tiny", "language": b"de", "stream": b"True", "temperature": b"0"}
    parts = [
        part("file", content, file=True) if name == "file" else part(name, values[name])
        for name in order
    ]
    call, wire = sent(form(*parts), cuts, "tiny" if based else "")
    assert (call.model, call.stream) == ("tiny", True)
    assert wire.parts == {
        "model": b"ep_1",
        "file": content,
        "language": b"de",
        "temperature": b"0",
        "stream": b"true",
        "stream_include_usage": b"true",
        "stream_continuous_usage_stats": b"true",
    }


def test_what_the_client_asked_of_usage() -> None:
    head = [part("model", b"m"), part("stream", b"1"), part("stream_include_usage", b"true")]
    call, _ = sent(form(*head, part("file", b"x", file=True)), [])
    assert (call.stream, call.wants_usage, call.wants_running_usage) == (True, True, False)
    _, wire = sent(form(part("model", b"m"), part("file", b"x", file=True)), [])
    assert wire.parts == {"model": b"ep_1", "file": b"x"}


@pytest.mark.parametrize("late", [True, False])
@pytest.mark.parametrize("name", ["vllm_xargs", "vllm_xargs[a]", "priority", "cache_salt"])
def test_what_steers_the_engine_is_refused(name: str, late: bool) -> None:
    parts = [part(name, b"1"), part("file", b"x", file=True)]
    data = form(part("model", b"m"), *(reversed(parts) if late else parts))
    with pytest.raises(ApiError) as refused:
        sent(data, [data.index(b"filename") + 40])
    assert refused.value.code == "unsupported_parameter"


FILE = part("file", b"x", file=True)
MODEL = part("model", b"m")


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"--other\r\n",
        b"preamble\r\n" + form(MODEL, FILE),
        form(MODEL, FILE)[:-4],
        form(MODEL),
        form(MODEL, FILE, FILE),
        form(MODEL, MODEL, FILE),
        form(MODEL, FILE, MODEL),
        form(MODEL, part("other", b"x", file=True)),
        form(MODEL, part("file", b"x")),
        form(MODEL, part("fi\nle", b"x"), FILE),
        form(MODEL, FILE).replace(b"--xYzZy\r\n", b"--xYzZy \r\n"),
        form(MODEL, FILE).replace(b"Content-D", b"\r\nContent-D"),
        form(MODEL, FILE).replace(b'name="model"', b'name="model"; name="language"'),
        form(MODEL, FILE).replace(b'name="model"', b"name=model"),
        form(MODEL, FILE).replace(b"Content-T", b"content-disposition: form-data\r\nContent-T"),
        form(MODEL, part("prompt", b"x" * 70_000), FILE),
        form(MODEL, part("stream", b"maybe"), FILE),
        form(MODEL, part("prompt", b"\xff"), FILE),
        form(*[part(f"f{at}", b"") for at in range(70)], MODEL, FILE),
        form(MODEL, part("x" * 65, b""), FILE),
        form(MODEL, FILE).replace(b"Content-D", b"X: " + b"x" * 9000 + b"\r\nContent-D"),
    ],
)
def test_what_is_no_form(data: bytes) -> None:
    for cuts in ([], list(range(1, len(data), 7))):
        with pytest.raises(ApiError) as refused:
            wire = Wire()
            up, begun = upload(wire), False
            for start, end in pairwise([0, *cuts, len(data)]):
                up.feed(data[start:end])
                if up.ready and not begun:
                    begun = True
                    up.open(up.call(operations.TRANSCRIPTIONS, ""), "ep_1", "req_1")
            up.end()
            up.call(operations.TRANSCRIPTIONS, "")
        assert refused.value.status == 400


def test_the_files_name_and_type_are_plain() -> None:
    odd = (
        part("file", b"x", file=True).replace(b"a.wav", b"../\xc3\xbc").replace(b"audio/", b"a b/")
    )
    _, wire = sent(form(MODEL, odd), [])
    assert b'filename="audio"\r\ncontent-type: application/octet-stream' in wire.body
    _, wire = sent(form(MODEL, FILE), [])
    assert b'filename="a.wav"\r\ncontent-type: audio/wav' in wire.body


def test_a_slow_engine_stops_the_client() -> None:
    wire = Wire()
    up = upload(wire)
    up.feed(MODEL + FILE[:-3])
    up.open(up.call(operations.TRANSCRIPTIONS, ""), "ep_1", "req_1")
    up.feed(b"x" * 300_000)
    assert wire.stopped  # no engine yet
    assert up.attach(wire)
    assert not wire.stopped
    up.engine_slow()
    assert wire.stopped
    before = len(wire.data)
    up.feed(b"y" * 10)
    assert len(wire.data) == before
    up.engine_ready()
    assert not wire.stopped
    up.feed(b"\r\n" + form())
    up.end()
    assert wire.parts["file"].endswith(b"x" * 10 + b"y" * 10) or len(wire.parts["file"]) > 300_000


def test_a_second_try_gets_it_all_again_while_it_is_short() -> None:
    wire, second = Wire(), Wire()
    up = upload(wire)
    up.feed(MODEL + FILE[:-3])
    up.open(up.call(operations.TRANSCRIPTIONS, ""), "ep_1", "req_1")
    assert up.attach(wire)
    up.detach()
    assert up.attach(second)
    up.feed(b"\r\n" + form())
    up.end()
    assert second.parts == {"model": b"ep_1", "file": b""}
    up = upload(wire)
    up.feed(MODEL + FILE[:-3])
    up.open(up.call(operations.TRANSCRIPTIONS, ""), "ep_1", "req_1")
    assert up.attach(wire)
    up.feed(b"x" * (2 << 20))
    up.detach()
    assert not up.attach(second)


def test_a_model_behind_a_long_file() -> None:
    up = upload(Wire(), held_max=1000)
    with pytest.raises(ApiError) as refused:
        up.feed(FILE[:-3] + b"x" * 2000)
    assert (refused.value.status, refused.value.code) == (413, "model_after_file")


@pytest.mark.parametrize(
    ("kind", "mark"),
    [
        (b"multipart/form-data; boundary=abc", b"abc"),
        (b'Multipart/Form-Data; charset=utf-8; Boundary="a b\'c"', b"a b'c"),
        (b"multipart/form-data", None),
        (b"multipart/form-data; boundary=a; boundary=b", None),
        (b"multipart/form-data; boundary=", None),
        (b'multipart/form-data; boundary="a\r\nb"', None),
        (b"multipart/form-data; boundary=" + b"a" * 71, None),
        (b"multipart/mixed; boundary=a", None),
        (b"application/json", None),
        (b"", None),
    ],
)
def test_the_boundary(kind: bytes, mark: bytes | None) -> None:
    if mark is not None:
        assert forms.boundary(kind) == mark
        return
    with pytest.raises(ApiError) as refused:
        forms.boundary(kind)
    assert refused.value.status in (400, 415)
