"""What a client's connection tells the answer that is under way."""

from typing import Protocol

from gateway.errors import ApiError


class Running(Protocol):
    """An answer under way; the connection tells it what happens to the client."""

    def client_gone(self) -> None: ...
    def client_slow(self) -> None: ...
    def client_ready(self) -> None: ...
    def gateway_leaves(self) -> None: ...
    def timed_out(self) -> None: ...


class Onward(Protocol):
    """Where a request goes whose attempt has failed."""

    def next(self, error: ApiError, *, booked: bool) -> bool: ...
