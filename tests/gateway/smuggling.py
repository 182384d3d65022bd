"""Requests on which two servers might disagree, and what RFC 9112 makes of each.

`{S}` stands for a whole request that somebody wants to smuggle past whoever reads in front of us;
`{B}` for a body of 61 bytes, hexadecimal 3d, which a chat request may have.
"""

from dataclasses import dataclass

from tests.gateway.rig import KEY

BODY = b'{"model":"tiny","messages":[{"role":"user","content":"open"}]}'
SECRET = b'{"model":"tiny","messages":[{"role":"user","content":"SMUG"}]}'
SIZE = len(BODY)
_LINES = b"host: x\r\nauthorization: Bearer %b\r\n" % KEY.encode()
POST = b"POST /v1/chat/completions HTTP/1.1\r\n" + _LINES
GET = b"GET /v1/models HTTP/1.1\r\n" + _LINES
SMUGGLED = POST + b"content-length: %d\r\n\r\n%b" % (SIZE, SECRET)
LENGTH = b"content-length: %d\r\n" % SIZE
CHUNKED = b"transfer-encoding: chunked\r\n"
CHUNKS = b"%x\r\n%b\r\n0\r\n\r\n" % (SIZE, BODY)
EMPTY = b"0\r\n\r\n"


@dataclass(frozen=True)
class Case:
    """`statuses` of all answers, in order; the bodies that engines may see; and whether the
    connection ends by it."""

    name: str
    raw: bytes
    statuses: tuple[int, ...] = (400,)
    seen: tuple[bytes, ...] = ()
    ends: bool = True

    def __repr__(self) -> str:
        return self.name


def _refused(name: str, raw: bytes, status: int = 400) -> Case:
    return Case(name, raw, (status,))


def _served(name: str, raw: bytes, *statuses: int, bodies: tuple[bytes, ...] = (BODY,)) -> Case:
    return Case(name, raw, statuses or (200,), bodies, ends=False)


def _framed(name: str, lines: bytes) -> Case:
    """Framing that must be refused, whichever way the body is meant."""
    return _refused(name, POST + lines + b"\r\n" + EMPTY + SMUGGLED)


_LENGTHS = {
    "sign": b"+%d", "minus": b"-%d", "hexadecimal": b"0x%x", "point": b"%d.0", "exponent": b"%de0",
    "underscore": b"6_%d", "list": b"%d, 62", "spaced list": b"%d 62", "semicolon": b"%d;",
    "quoted": b'"%d"', "vertical tab": b"%d\x0b", "form feed": b"\x0c%d", "NUL": b"%d\x00",
    "no-break space": b"\xa0%d", "other digits": "٦%d".encode(), "comma": b"%d,", "letters": b"%da",
    "overflow of 64 bits": b"184467440737095516%d", "carriage return": b"%d\r",
}  # fmt: skip

_CODINGS = {
    "unknown": b"xchunked", "twice": b"chunked, chunked", "identity": b"identity",
    "identity after": b"chunked, identity", "identity before": b"identity, chunked",
    "gzip": b"gzip, chunked", "quoted": b'"chunked"', "parameter": b"chunked;q=1",
    "vertical tab": b"\x0bchunked", "form feed": b"chunked\x0c", "NUL": b"chunked\x00",
    "comma before": b", chunked", "comma after": b"chunked,", "empty": b"",
    "cow": b"cow", "spaces in it": b"chun ked", "carriage return": b"chunked\r",
    "line feed": b"x\nTransfer-Encoding: chunked", "8 bits": b"chunked\xff",
}  # fmt: skip

_CHUNK_SIZES = {
    "hexadecimal": b"0x%x\r\n", "sign": b"+%x\r\n", "minus": b"-%x\r\n", "space before": b" %x\r\n",
    "underscore": b"0_%x\r\n", "empty": b"\r\n", "overflow": b"10000000000000000%x\r\n",
    "line feed": b"%x\n", "carriage return": b"%x\r", "line feed in an extension": b"%x;a\nb\r\n",
    "carriage return in an extension": b"%x;a\rb\r\n", "NUL in an extension": b"%x;a\0\r\n",
    "only an extension": b";a=b\r\n", "garbage": b"%xg\r\n", "quote that never ends": b'%x;a="\r\n',
    "line end in quotes": b'%x;a="\r\nb"\r\n', "tab before": b"\t%x\r\n",
}  # fmt: skip

CORPUS = [
    # --- two framings ---
    _refused("CL.TE", POST + LENGTH + CHUNKED + b"\r\n" + EMPTY + SMUGGLED),
    _refused("TE.CL", POST + CHUNKED + b"content-length: 4\r\n\r\n" + CHUNKS + SMUGGLED),
    _refused("CL.TE with nothing", POST + b"content-length: 0\r\n" + CHUNKED + b"\r\n" + CHUNKS),
    _refused("TE.TE", POST + CHUNKED + b"transfer-encoding: cow\r\n\r\n" + CHUNKS + SMUGGLED),
    _refused("TE.TE twice", POST + CHUNKED + CHUNKED + b"\r\n" + CHUNKS),
    _refused(
        "TE in HTTP/1.0",
        POST.replace(b"/1.1", b"/1.0") + CHUNKED + b"\r\n" + CHUNKS + SMUGGLED,
    ),
    _refused("TE behind a bare LF", POST + b"x: y\n" + CHUNKED + b"\r\n" + CHUNKS + SMUGGLED),
    _refused("TE behind a bare CR", POST + b"x: y\r" + CHUNKED + b"\r\n" + CHUNKS + SMUGGLED),
    _refused("CL twice, one value", POST + LENGTH + LENGTH + b"\r\n" + BODY),
    _refused("CL twice", POST + LENGTH + b"content-length: 0\r\n\r\n" + SMUGGLED),
    _framed("CL without value", b"content-length: \r\n"),
    _framed("CL of one space more", b"content-length : 0\r\n"),
    _framed("CL and a tab", b"content-length\t: 0\r\n"),
    _framed("CL and a NUL", b"content-length\0: 0\r\n"),
    _framed("CL on two lines", b"content-length:\r\n 0\r\n"),
    _framed("CL behind a space", b" content-length: 0\r\n"),
    _framed("TE on two lines", b"transfer-encoding:\r\n chunked\r\n"),
    _framed("TE and a space", b"transfer-encoding : chunked\r\n"),
    _framed("TE and a line feed", b"transfer-encoding\n: chunked\r\n"),
    *(
        _refused(f"CL {name}", POST + b"content-length: " + form % SIZE + b"\r\n\r\n" + BODY)
        for name, form in _LENGTHS.items()
    ),
    *(
        _framed(f"TE {name}", b"transfer-encoding: " + form + b"\r\n")
        for name, form in _CODINGS.items()
    ),
    # --- chunks ---
    *(
        _refused(
            f"chunk size: {name}",
            POST + CHUNKED + b"\r\n" + (form % SIZE if b"%" in form else form)
            + BODY + b"\r\n0\r\n\r\n" + SMUGGLED,
        )
        for name, form in _CHUNK_SIZES.items()
    ),
    _refused(
        "chunk longer than it says",
        POST + CHUNKED + b"\r\n%x\r\n%b1\r\n0\r\n\r\n" % (SIZE, BODY) + SMUGGLED,
    ),
    _refused(
        "chunk without its line end",
        POST + CHUNKED + b"\r\n%x\r\n%b0\r\n\r\n" % (SIZE, BODY) + SMUGGLED,
    ),
    _refused(
        "chunk ends in a line feed",
        POST + CHUNKED + b"\r\n%x\r\n%b\n0\r\n\r\n" % (SIZE, BODY) + SMUGGLED,
    ),
    _refused(
        "last chunk ends in a line feed",
        POST + CHUNKED + b"\r\n%x\r\n%b\r\n0\n\n" % (SIZE, BODY) + SMUGGLED,
    ),
    _refused(
        "trailer with a bare LF",
        POST + CHUNKED + b"\r\n%x\r\n%b\r\n0\r\na: b\n\r\n" % (SIZE, BODY) + SMUGGLED,
    ),
    _refused(
        "trailer without a colon",
        POST + CHUNKED + b"\r\n%x\r\n%b\r\n0\r\nab\r\n\r\n" % (SIZE, BODY) + SMUGGLED,
    ),
    _refused(
        "a length in a trailer",
        POST + CHUNKED + b"\r\n%x\r\n%b\r\n0\r\n%b\r\n" % (SIZE, BODY, LENGTH) + SMUGGLED,
    ),
    _refused(
        "a coding in a trailer",
        POST + CHUNKED + b"\r\n%x\r\n%b\r\n0\r\n%b\r\n" % (SIZE, BODY, CHUNKED) + SMUGGLED,
    ),
    # --- lines ---
    _refused("bare LFs", (GET + b"\r\n").replace(b"\r\n", b"\n")),
    _refused("bare CRs", (GET + b"\r\n").replace(b"\r\n", b"\r")),
    _refused("folded", GET + b"x: a\r\n\tb\r\n\r\n" + SMUGGLED),
    _refused("no colon", GET + b"x\r\n\r\n" + SMUGGLED),
    _refused("no name", GET + b": x\r\n\r\n" + SMUGGLED),
    _refused("space before the colon", GET + b"x : a\r\n\r\n" + SMUGGLED),
    _refused("space in a name", GET + b"x y: a\r\n\r\n" + SMUGGLED),
    _refused("8 bits in a name", GET + b"x\xff: a\r\n\r\n" + SMUGGLED),
    _refused("NUL in a value", GET + b"x: a\0b\r\n\r\n" + SMUGGLED),
    _refused("control in a value", GET + b"x: a\x01b\r\n\r\n" + SMUGGLED),
    _refused("DEL in a value", GET + b"x: a\x7fb\r\n\r\n" + SMUGGLED),
    _refused("CR in a value", GET + b"x: a\rb\r\n\r\n" + SMUGGLED),
    _refused("CR at the end", GET + b"x: a\r\r\n\r\n" + SMUGGLED),
    # --- request lines ---
    _refused("HTTP/0.9", b"GET /v1/models\r\n\r\n"),
    _refused("no version", b"GET /v1/models \r\n" + _LINES + b"\r\n"),
    _refused("version in small letters", GET.replace(b"HTTP", b"http", 1) + b"\r\n"),
    _refused("version 1.2", GET.replace(b"1.1", b"1.2", 1) + b"\r\n"),
    _refused("version 1.10", GET.replace(b"1.1", b"1.10", 1) + b"\r\n"),
    _refused("version 1.", GET.replace(b"1.1", b"1.", 1) + b"\r\n"),
    _refused("version 2.0", GET.replace(b"1.1", b"2.0", 1) + b"\r\n"),
    _refused("preface of HTTP/2", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + SMUGGLED),
    _refused("other protocol", GET.replace(b"HTTP", b"ICY", 1) + b"\r\n"),
    _refused("three words more", GET.replace(b" HTTP", b" x HTTP", 1) + b"\r\n"),
    _refused("tab between words", GET.replace(b"GET ", b"GET\t", 1) + b"\r\n"),
    _refused("space before", b" " + GET + b"\r\n"),
    _refused("NUL in the target", GET.replace(b"models", b"mod\0els", 1) + b"\r\n"),
    _refused("line feed in the target", GET.replace(b"models", b"mod\nels", 1) + b"\r\n"),
    _refused("8 bits in the target", GET.replace(b"models", b"mod\xffels", 1) + b"\r\n"),
    _refused("method in small letters", GET.replace(b"GET", b"get", 1) + b"\r\n"),
    _refused("method with a colon", GET.replace(b"GET", b"GET:", 1) + b"\r\n"),
    _refused("authority as the target", GET.replace(b"/v1/models", b"x:80", 1) + b"\r\n"),
    _refused("word as the target", GET.replace(b"/v1/models", b"v1/models", 1) + b"\r\n"),
    _refused("asterisk as the target", GET.replace(b"/v1/models", b"*", 1) + b"\r\n"),
    _refused("target of another kind", GET.replace(b"/v1", b"file:///v1", 1) + b"\r\n"),
    _refused("target without a host", GET.replace(b"/v1", b"http:///v1", 1) + b"\r\n"),
    _refused("target with a user", GET.replace(b"/v1", b"http://u@x/v1", 1) + b"\r\n"),
    # --- hosts ---
    _refused("no host", GET.replace(b"host: x\r\n", b"") + b"\r\n"),
    _refused("two hosts", GET + b"host: y\r\n\r\n" + SMUGGLED),
    _refused("the same host twice", GET + b"Host: x\r\n\r\n" + SMUGGLED),
    *(
        _refused(f"host {host!r}", GET.replace(b"host: x", b"host: " + host) + b"\r\n" + SMUGGLED)
        for host in (b"a b", b"a,b", b"a/b", b"u@a", b"a?b", b"a#b", b"a\\b", b"a\tb", b"\xff")
    ),
    # --- what only looks odd ---
    _served("plain", POST + LENGTH + b"\r\n" + BODY),
    _served("two behind each other", (POST + LENGTH + b"\r\n" + BODY) * 2, 200, 200,
            bodies=(BODY, BODY)),
    _served("empty lines before", b"\r\n\r\n" + POST + LENGTH + b"\r\n" + BODY),
    _served("empty lines between", POST + LENGTH + b"\r\n" + BODY + b"\r\n" + GET + b"\r\n",
            200, 200),
    _served("names in capitals", POST + LENGTH.upper() + b"\r\n" + BODY),
    _served("spaces around", POST + b"content-length: \t %d \t\r\n\r\n" % SIZE + BODY),
    _served("no space", POST + b"content-length:%d\r\n\r\n" % SIZE + BODY),
    _served("leading zeros", POST + b"content-length: 00%d\r\n\r\n" % SIZE + BODY),
    _served("chunked in capitals", POST + b"Transfer-Encoding:\tCHUNKED \r\n\r\n" + CHUNKS),
    _served("an underscore is another name",
            POST + b"transfer_encoding: chunked\r\n" + LENGTH + b"\r\n" + BODY),
    _served("a dash more is another name",
            POST + b"transfer--encoding: chunked\r\n" + LENGTH + b"\r\n" + BODY),
    _served("extensions", POST + CHUNKED
            + b'\r\n%x;a=b;c="d;e";f\r\n%b\r\n0;g\r\n\r\n' % (SIZE, BODY)),
    _served("sizes with zeros and capitals", POST + CHUNKED
            + b"\r\n00%X\r\n%b\r\n000\r\n\r\n" % (SIZE, BODY)),
    _served("a body of GET is read and left", GET + LENGTH + b"\r\n" + SECRET + GET + b"\r\n",
            200, 200, bodies=()),
    _served("chunks of GET are read and left", GET + CHUNKED + b"\r\n" + CHUNKS + GET + b"\r\n",
            200, 200, bodies=()),
    _served("a request in a body is a body",
            GET + b"content-length: %d\r\n\r\n" % len(SMUGGLED) + SMUGGLED + GET + b"\r\n",
            200, 200, bodies=()),
    _served("POST without a length has no body", POST + b"\r\n" + GET + b"\r\n", 400, 200,
            bodies=()),
    _served("whole address as the target",
            GET.replace(b"/v1", b"http://x/v1", 1) + b"\r\n"
            + POST.replace(b"/v1", b"HTTPS://other:443/v1", 1) + LENGTH + b"\r\n" + BODY, 200, 200),
    _served("whole address without a path", b"GET http://x HTTP/1.1\r\n" + _LINES + b"\r\n", 404,
            bodies=()),
    _served("whole address with a query", GET.replace(b"/v1/models", b"http://x/v1/models?a=/b", 1)
            + b"\r\n", bodies=()),
    _served("OPTIONS *", b"OPTIONS * HTTP/1.1\r\n" + _LINES + b"\r\n", 404, bodies=()),
    _served("empty host", GET.replace(b"host: x", b"host:") + b"\r\n", bodies=()),
    *(
        _served(f"host {host!r}", GET.replace(b"host: x", b"host: " + host) + b"\r\n", bodies=())
        for host in (b"a.b-c_d", b"a:80", b"[::1]:80", b"1.2.3.4", b"a%20b", b"a!$&'()*+;=~")
    ),
    _served("offer of another protocol",
            POST + b"connection: upgrade\r\nupgrade: h2c\r\n" + LENGTH + b"\r\n" + BODY
            + GET + b"\r\n", 200, 200),
    _served("offer of another protocol, in chunks",
            POST + b"connection: upgrade\r\nupgrade: websocket\r\n" + CHUNKED + b"\r\n" + CHUNKS
            + GET + b"\r\n", 200, 200),
    Case("closed means closed", POST + b"connection: close\r\n" + LENGTH + b"\r\n" + BODY
         + SMUGGLED, (200,), (BODY,)),
    Case("HTTP/1.0 is closed", POST.replace(b"/1.1", b"/1.0") + LENGTH + b"\r\n" + BODY + SMUGGLED,
         (200,), (BODY,)),
    Case("broken behind a sound one", POST + LENGTH + b"\r\n" + BODY + POST + LENGTH + LENGTH
         + b"\r\n" + SECRET, (200, 400), (BODY,)),
]  # fmt: skip
