"""Heads of replies. Bodies are either whole, with their length, or framed as chunks."""

import http
from collections.abc import Iterable

from gateway.errors import ApiError

CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
LAST_CHUNK = b"0\r\n\r\n"
JSON = b"application/json"
EVENTS = b"text/event-stream; charset=utf-8"
# Clients written for OpenAI's service look for it.
_VERSION = b"openai-version: 2020-10-01\r\n"
_ECHO_LIMIT = 200

_STATUS = {
    status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n".encode()
    for status in http.HTTPStatus
}


def status_line(status: int) -> bytes:
    return _STATUS.get(status) or b"HTTP/1.1 %d Status\r\n" % status


def identity(request_id: str, client_request_id: bytes | None, *, anthropic: bool = False) -> bytes:
    """Our id of the request, and the one that the client sent along, as header lines."""
    lines = b"x-request-id: %b\r\n" % request_id.encode()
    if anthropic:  # its clients look for it under another name
        lines += b"request-id: %b\r\n" % request_id.encode()
    if client_request_id and len(client_request_id) <= _ECHO_LIMIT:
        lines += b"x-client-request-id: %b\r\n" % client_request_id
    return lines + _VERSION


def whole(
    status: int,
    content_type: bytes,
    body: bytes,
    lines: Iterable[bytes] = (),
    *,
    keep_alive: bool = True,
) -> bytes:
    """A complete reply. `lines` are header lines with their ends."""
    return b"%bcontent-type: %b\r\ncontent-length: %d\r\n%b%b\r\n%b" % (
        status_line(status),
        content_type,
        len(body),
        b"".join(lines),
        b"" if keep_alive else b"connection: close\r\n",
        body,
    )


def refusal(
    error: ApiError,
    request_id: str,
    lines: Iterable[bytes],
    *,
    keep_alive: bool,
    anthropic: bool = False,
) -> bytes:
    extra = [*lines]
    if error.retry_after_s is not None:
        extra.append(b"retry-after: %d\r\n" % error.retry_after_s)
    if error.lines:
        extra.append(error.lines)
    if error.status == 401:
        extra.append(b"www-authenticate: Bearer\r\n")
    body = error.body(request_id, anthropic=anthropic)
    return whole(error.status, JSON, body, extra, keep_alive=keep_alive)


def opening(
    status: int, content_type: bytes, lines: Iterable[bytes], *, chunked: bool, keep_alive: bool
) -> bytes:
    """The head of a reply whose length is not known yet."""
    streamed = content_type.startswith(b"text/event-stream")
    return b"%bcontent-type: %b\r\n%b%b%b%b\r\n" % (
        status_line(status),
        content_type,
        b"cache-control: no-cache\r\nx-accel-buffering: no\r\n" if streamed else b"",
        b"".join(lines),
        b"transfer-encoding: chunked\r\n" if chunked else b"",
        b"" if keep_alive else b"connection: close\r\n",
    )


def chunk(data: bytes) -> bytes:
    """One chunk. `data` is not empty: an empty chunk would end the body."""
    return b"%x\r\n%b\r\n" % (len(data), data)
