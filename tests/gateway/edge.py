"""Anything at all on a gateway's port: what is sent there, and what may come back."""

import contextlib
import json
import logging
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise

import httptools
from hypothesis import strategies as st

from tests.gateway import rfc9112, smuggling
from tests.gateway.rig import KEY

QUIET_S = 0.03  # nothing comes for so long: it waits for us
HANGS_S = 8.0  # and does not even notice that we go

# --- what is sent ---------------------------------------------------------------------------

_HOST = b"host: x\r\n"
_KEY = b"authorization: Bearer %b\r\n" % KEY.encode()


def _post(path: bytes, body: bytes, more: bytes = b"") -> bytes:
    head = b"POST %b HTTP/1.1\r\n%b%b%b" % (path, _HOST, _KEY, more)
    return head + b"content-length: %d\r\n\r\n%b" % (len(body), body)


_CHAT = b'{"model":"tiny","messages":[{"role":"user","content":"hi"}]}'
_STREAM = b'{"model":"tiny","stream":true,"messages":[{"role":"user","content":"hi"}]}'
_CHUNKED = b"transfer-encoding: chunked\r\n\r\n"
_SOUND = (
    _post(b"/v1/chat/completions", _CHAT),
    _post(b"/v1/chat/completions", _STREAM),
    _post(b"/v1/completions", b'{"model":"tiny","prompt":"a","max_tokens":2}'),
    _post(b"/v1/chat/completions", _CHAT, b"expect: 100-continue\r\n"),
    _post(b"/v1/chat/completions", _CHAT, b"connection: upgrade\r\nupgrade: h2c\r\n"),
    b"POST /v1/embeddings HTTP/1.1\r\n%b%b%b%x\r\n%b\r\n0\r\n\r\n"
    % (_HOST, _KEY, _CHUNKED, len(_CHAT), _CHAT),
    b"GET /v1/models HTTP/1.1\r\n%b%b\r\n" % (_HOST, _KEY),
    b"GET /v1/models/tiny?x=1 HTTP/1.0\r\n%b\r\n" % _KEY,
    b"GET /healthz HTTP/1.1\r\n%bconnection: close\r\n\r\n" % _HOST,
)
_PARTS = (
    b"\r\n", b"\r\n\r\n", b"\n", b"\r", b"\0", b" ", b":", b"content-length: 5\r\n",
    b"content-length: -1\r\n", b"content-length: 99999999999999999999\r\n", _CHUNKED, b"0\r\n\r\n",
    b"ffffffffffffffff\r\n", b"host: y\r\n", b"expect: 100-continue\r\n", b"HTTP/1.1",
    b"HTTP/9.9", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b'{"model":', b"\xff\xfe", b"\\ud800",
    b"x-stoa-wait: 0\r\n", b"null", b"[" * 300, b"1e999", b"trailer: a\r\n",
    b"content-length: 0\r\n", b"transfer-encoding: chunked\r\n", b"Transfer-Encoding : chunked\r\n",
    b"transfer-encoding: identity\r\n", b" folded\r\n", b"\x0b", b"3d\r\n", b"0;a=b\r\n\r\n", b"\t",
    b"connection: close\r\n", b"upgrade: h2c\r\nconnection: upgrade\r\n", smuggling.SMUGGLED,
)  # fmt: skip

Wound = tuple[str, float, bytes]
wounds = st.lists(
    st.tuples(
        st.sampled_from(("put", "cut", "over")),
        st.floats(0, 1),
        st.one_of(st.sampled_from(_PARTS), st.binary(min_size=1, max_size=8)),
    ),
    max_size=5,
)


def wounded(data: bytes, hits: list[Wound]) -> bytes:
    """Put something in, cut something out, or write over it, at a share of the length."""
    for how, share, what in hits:
        at = int(share * len(data))
        rest = data[at:] if how == "put" else data[at + len(what) :]
        data = data[:at] + (b"" if how == "cut" else what) + rest
    return data


def pieces(data: bytes, cuts: list[float]) -> list[bytes]:
    """The same in several, cut at these shares of its length."""
    bounds = sorted({0, len(data), *(int(cut * len(data)) for cut in cuts)})
    return [data[a:b] for a, b in pairwise(bounds)]


_requests = st.one_of(
    st.builds(wounded, st.sampled_from(_SOUND), wounds),
    st.builds(wounded, st.sampled_from([case.raw for case in smuggling.CORPUS]), wounds),
    st.lists(st.sampled_from((*_SOUND, *_PARTS)), max_size=8).map(b"".join),
    st.binary(max_size=200),
)
conversations = st.builds(
    pieces,
    st.lists(_requests, min_size=1, max_size=3).map(b"".join),
    st.lists(st.floats(0, 1), max_size=4),
)


# --- what comes back ------------------------------------------------------------------------


def converse(port: int, pieces: list[bytes]) -> bytes:
    """All that the gateway says to this, until the connection is over. Raises TimeoutError."""
    said = b""
    with socket.create_connection(("127.0.0.1", port), HANGS_S) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with contextlib.suppress(ConnectionError):
            for piece in pieces:
                connection.sendall(piece)
            connection.settimeout(QUIET_S)
            with contextlib.suppress(TimeoutError):
                while data := connection.recv(1 << 16):
                    said += data
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_WR)
            connection.settimeout(HANGS_S)
            while data := connection.recv(1 << 16):
                said += data
    return said


def ask(
    port: int, pieces: list[bytes], answers: int, *, ends: bool
) -> tuple[tuple[int, ...], bool]:
    """The statuses of what is answered, and whether the connection is closed behind them.

    For as many answers as are expected, and for the end if one is, we wait; else only a moment.
    """
    read = _Answers()
    with socket.create_connection(("127.0.0.1", port), HANGS_S) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with contextlib.suppress(ConnectionError):  # it may have heard enough
            for piece in pieces:
                connection.sendall(piece)
        try:
            while data := connection.recv(1 << 16):
                read.read(data)
                if read.whole >= answers and not ends:
                    connection.settimeout(QUIET_S)
        except TimeoutError:
            return tuple(read.statuses), False
        except ConnectionResetError:
            pass  # closed with bytes of ours unread: what it had said before has been read
    return tuple(read.statuses), True


@dataclass
class _Answers:
    """Reads answers as any client would."""

    statuses: list[int] = field(default_factory=list)
    bodies: list[bytes] = field(default_factory=list)
    whole: int = 0

    def __post_init__(self) -> None:
        self._parser = httptools.HttpResponseParser(self)

    def read(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_headers_complete(self) -> None:
        self.statuses.append(self._parser.get_status_code())
        self.bodies.append(b"")

    def on_body(self, data: bytes) -> None:
        self.bodies[-1] += data

    def on_message_complete(self) -> None:
        self.whole += 1


def check(said: bytes, sent: bytes, opened: int) -> None:
    """Well-formed answers, or none; nothing that means a fault of ours.

    `opened` requests were passed on to engines: never more than a second reading finds.
    """
    read = rfc9112.requests(sent)
    assert opened <= sum(request.method == b"POST" for request in read), sent
    if b"HEAD" in sent:  # whose answers have lengths without bodies
        assert not said or said.startswith(b"HTTP/1.1 ")
        return
    answers = _Answers()
    answers.read(said)
    final = [status for status in answers.statuses if status != 100]
    assert len(final) <= len(read) + 1, (said, sent)  # one more: why there are no others
    assert 500 not in answers.statuses, said
    for status, body in zip(answers.statuses[: answers.whole], answers.bodies, strict=False):
        if status >= 400:
            error = json.loads(body)["error"]
            assert error.keys() == {"message", "type", "param", "code"}
            assert error["message"]
    # Only an answer that was under way when we left may stop short.
    assert answers.whole >= len(answers.statuses) - 1
    assert answers.whole == len(answers.statuses) or answers.statuses[-1] == 200, said


@contextmanager
def watched_faults() -> Iterator[list[str]]:
    """What the gateway's own log calls an error, and what nobody caught."""
    faults: list[str] = []

    class Watch(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            faults.append(self.format(record))

    watch = Watch(logging.ERROR)
    names = ("gateway", "asyncio")
    for name in names:
        logging.getLogger(name).addHandler(watch)
    try:
        yield faults
    finally:
        for name in names:
            logging.getLogger(name).removeHandler(watch)
