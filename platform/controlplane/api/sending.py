"""A file to whoever asked: never whole in memory, and from any byte on (RFC 9110, ranges)."""

import asyncio
import re
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

from django.core.handlers.asgi import ASGIRequest
from django.http import HttpResponse, StreamingHttpResponse
from django.http.response import HttpResponseBase
from rest_framework.request import Request

_PIECE = 1 << 20
_RANGE = re.compile(r"bytes=([0-9]{1,18})-([0-9]{0,18})")


def begins(request: Request) -> int:
    """At which byte the range begins that is asked for."""
    asked = _RANGE.fullmatch(request.headers.get("range", ""))
    return int(asked[1]) if asked else 0


def send(request: Request, path: Path, *, name: str, etag: str) -> HttpResponseBase:
    """All of it, or the one `Range` that is asked for; other forms of it are passed over.

    `etag`: another one means other bytes, so that with `If-Range` nobody glues two files together.
    """
    size = path.stat().st_size
    same = request.headers.get("if-range", f'"{etag}"') == f'"{etag}"'
    asked = _RANGE.fullmatch(request.headers.get("range", "")) if same else None
    start = int(asked[1]) if asked else 0
    end = min(size, int(asked[2]) + 1) if asked and asked[2] else size
    if asked and not start < end:
        return HttpResponse(status=416, headers={"Content-Range": f"bytes */{size}"})
    count = end - start
    pieces: AsyncIterator[bytes] | Iterator[bytes] = (
        _later(path, start, count)
        if isinstance(request._request, ASGIRequest)
        else _now(path, start, count)
    )
    headers = {
        "Content-Length": f"{count}",
        "Content-Disposition": f'attachment; filename="{name}"',
        "Accept-Ranges": "bytes",
        "ETag": f'"{etag}"',
    }
    if asked:
        headers["Content-Range"] = f"bytes {start}-{end - 1}/{size}"
    return StreamingHttpResponse(
        pieces,
        status=206 if asked else 200,
        headers=headers,
        content_type="application/octet-stream",
    )


def _now(path: Path, start: int, count: int) -> Iterator[bytes]:
    with path.open("rb") as file:
        file.seek(start)
        while count and (piece := file.read(min(_PIECE, count))):
            count -= len(piece)
            yield piece


async def _later(path: Path, start: int, count: int) -> AsyncIterator[bytes]:
    """Of a synchronous iterator ASGI's handler would make a list first."""
    with await asyncio.to_thread(path.open, "rb") as file:
        file.seek(start)
        while count and (piece := await asyncio.to_thread(file.read, min(_PIECE, count))):
            count -= len(piece)
            yield piece
