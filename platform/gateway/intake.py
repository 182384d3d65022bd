"""How a client's connection takes in a form: piece by piece, served before it is complete."""

import asyncio
import time
from typing import TYPE_CHECKING, Protocol

from gateway import errors
from gateway.errors import ApiError
from gateway.limits import Limits
from gateway.running import Running
from gateway.uploads import Upload

if TYPE_CHECKING:
    from gateway.client import Request


class Client(Protocol):
    transport: asyncio.Transport
    busy: bool
    running: Running | None

    def touch(self, seconds: float) -> None: ...


class Intake(Upload):
    """`free`, below: nothing else is being answered."""

    __slots__ = ("_client", "_limits", "_request", "begun", "limit")

    def __init__(self, mark: bytes, client: Client, request: "Request", limits: Limits) -> None:
        super().__init__(mark, self, limits.body_bytes)
        self._client = client
        self._request = request
        self._limits = limits
        self.limit = limits.upload_bytes
        self.begun = False  # it is being served

    def take(self, data: bytes, *, free: bool) -> bool:
        """Whether it is to be served from now on. Raises ApiError where the reading must end."""
        if time.monotonic() - self._request.timing.arrived > self._limits.upload_s:
            raise errors.too_slow()
        if self.begun or free:
            self._client.touch(self._limits.body_s)
        try:
            self.feed(data)
        except ApiError as error:
            self.spoil(error)
            return False
        return self.starts(free=free)

    def starts(self, *, free: bool) -> bool:
        if self.begun or not free or not self.ready or self._request.refusal is not None:
            return False
        self.begun = True
        return True

    def whole(self) -> bool:
        """The body is complete. Whether it is served already, or was."""
        try:
            self.end()
        except ApiError as error:
            self.spoil(error)
        if self.begun:
            busy, limits = self._client.busy, self._limits
            self._client.touch(limits.engine_s if busy else limits.idle_s)
        return self.begun

    def spoil(self, error: ApiError) -> None:
        """Something in it is wrong."""
        self.close()
        if not self.begun:
            self._request.refusal = self._request.refusal or error
        elif self.failed is not None and self._client.running is not None:
            self.failed(error)

    def stop(self) -> None:
        """Read no more of it for now: the engine is slow."""
        if not self._client.transport.is_closing():
            self._client.transport.pause_reading()
        self._client.touch(self._limits.engine_s)

    def go_on(self) -> None:
        if not self._client.transport.is_closing():
            self._client.transport.resume_reading()
        self._client.touch(self._limits.body_s)


class Untouched(Intake):
    """A body that is none of our business: as it comes, it goes."""

    __slots__ = ()

    def __init__(self, client: "Client", request: "Request", limits: Limits) -> None:
        super().__init__(b"none", client, request, limits)

    def feed(self, data: bytes) -> None:
        if self._open:
            self._put(data)
            self._balance()

    def end(self) -> None:
        if self._open:
            self.complete = True
            self._put(b"")
            self._balance()

    @property
    def ready(self) -> bool:
        return True
