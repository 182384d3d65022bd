"""A second reading of HTTP/1.1, slow and strict, to hold the gateway's own against.

It reads what the grammar of RFC 9112 admits and stops at the first thing that it does not.
"""

import re
from dataclasses import dataclass

_LINE = re.compile(rb"([A-Z]+) ([!-~]+) HTTP/1\.([01])")
_FIELD = re.compile(
    rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*((?:[\t -~\x80-\xff]*[!-~\x80-\xff])?)[ \t]*"
)
_QUOTED = rb'"(?:[^"\\\x00-\x08\x0a-\x1f\x7f]|\\[\t -~\x80-\xff])*"'
_TOKEN = rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_CHUNK = re.compile(
    rb"([0-9A-Fa-f]+)(?:[ \t]*;[ \t]*%b(?:[ \t]*=[ \t]*(?:%b|%b))?)*\r\n"
    % (_TOKEN, _TOKEN, _QUOTED)
)


class Unreadable(Exception):
    """Not a request, or not all of it."""


@dataclass(frozen=True)
class Request:
    method: bytes
    target: bytes
    body: bytes


def requests(data: bytes) -> list[Request]:
    """Those that a server may answer, up to the first that it may not."""
    found: list[Request] = []
    try:
        while data := data.lstrip(b"\r\n"):
            request, data, stays = _one(data)
            found.append(request)
            if not stays:
                break
    except Unreadable:
        pass
    return found


def _one(data: bytes) -> tuple[Request, bytes, bool]:
    head, found, rest = data.partition(b"\r\n\r\n")
    if not found:
        raise Unreadable
    first, *lines = head.split(b"\r\n")
    line = _LINE.fullmatch(first)
    if line is None:
        raise Unreadable
    fields: dict[bytes, list[bytes]] = {}
    for each in lines:
        field = _FIELD.fullmatch(each)
        if field is None:
            raise Unreadable
        fields.setdefault(field[1].lower(), []).append(field[2])
    new = line[3] == b"1"
    if len(fields.get(b"host", ())) > 1 or (new and b"host" not in fields):
        raise Unreadable
    body, rest = _body(fields, rest, new)
    options = b",".join(fields.get(b"connection", ())).lower().replace(b" ", b"").split(b",")
    stays = b"close" not in options and (new or b"keep-alive" in options)
    return Request(line[1], line[2], body), rest, stays


def _body(fields: dict[bytes, list[bytes]], rest: bytes, new: bool) -> tuple[bytes, bytes]:
    codings, lengths = fields.get(b"transfer-encoding"), fields.get(b"content-length")
    if codings is not None:
        if lengths is not None or not new or [each.lower() for each in codings] != [b"chunked"]:
            raise Unreadable
        return _chunks(rest)
    if lengths is None:
        return b"", rest
    if len(lengths) > 1 or not re.fullmatch(rb"\d+", lengths[0]):
        raise Unreadable
    length = int(lengths[0])
    if len(rest) < length:
        raise Unreadable
    return rest[:length], rest[length:]


def _chunks(rest: bytes) -> tuple[bytes, bytes]:
    body = b""
    while True:
        chunk = _CHUNK.match(rest)
        if chunk is None:
            raise Unreadable
        rest, size = rest[chunk.end() :], int(chunk[1], 16)
        if not size:
            break
        if rest[size : size + 2] != b"\r\n":
            raise Unreadable
        body, rest = body + rest[:size], rest[size + 2 :]
    while not rest.startswith(b"\r\n"):
        field, found, rest = rest.partition(b"\r\n")
        if not found or _FIELD.fullmatch(field) is None:
            raise Unreadable
    return body, rest[2:]
