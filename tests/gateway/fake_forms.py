"""How the fake engine hears a form: chunk by chunk, so that tests see what has arrived when.

The field `user` may say, before the file: `early=STATUS` answer at once, `deaf` go away.
"""

import asyncio
import json
import re
import threading
from dataclasses import dataclass, field
from typing import cast

_FIELD = re.compile(rb'form-data; name="([^"]*)"')


@dataclass
class Ear:
    arriving: list[int] = field(default_factory=list)  # bytes of each form so far
    broken: int = 0  # forms that ended too early
    open: threading.Event = field(default_factory=threading.Event)  # cleared: it does not read

    def __post_init__(self) -> None:
        self.open.set()

    async def hear(
        self, headers: dict[str, str], reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> tuple[bytes, int | None]:
        """The form as a JSON object, and the status to answer at once. Raises ConnectionError."""
        self.arriving.append(0)
        await self._wait(writer)
        form = b""
        try:
            while size := int(await reader.readline(), 16):
                form += (await reader.readexactly(size + 2))[:-2]
                self.arriving[-1] = len(form)
                if found := re.search(rb"early=(\d+)", form):
                    return b'{"model":null}', int(found[1])
                if b"deaf=1" in form:
                    raise ConnectionError
            await reader.readexactly(2)
        except (asyncio.IncompleteReadError, ConnectionError, ValueError):
            self.broken += 1
            raise ConnectionError from None
        return json.dumps(_fields(form, headers["content-type"])).encode(), None

    async def _wait(self, writer: asyncio.StreamWriter) -> None:
        transport = cast("asyncio.Transport", writer.transport)  # uvloop's is no subclass
        if not self.open.is_set():
            transport.pause_reading()
            while not self.open.is_set():
                await asyncio.sleep(0.01)
            transport.resume_reading()


def _fields(form: bytes, kind: str) -> dict[str, object]:
    mark = kind.partition('boundary="')[2].rstrip('"').encode()
    found: dict[str, object] = {}
    *parts, last = (b"\r\n" + form).split(b"\r\n--" + mark)
    assert (parts[0], last) == (b"", b"--\r\n")
    for part in parts[1:]:
        head, _, value = part.partition(b"\r\n\r\n")
        (name,) = _FIELD.findall(head)
        assert name.decode() not in found
        text = value.decode(errors="replace")
        found[name.decode()] = True if text == "true" else text
    if "stream" in found:
        names = {"stream_include_usage": "include_usage"}
        names["stream_continuous_usage_stats"] = "continuous_usage_stats"
        found["stream_options"] = {to: found.get(name) for name, to in names.items()}
    return found
