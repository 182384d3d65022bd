"""The request that is being served, so that services need not hand it down to `audit.record`."""

from collections.abc import Callable
from contextvars import ContextVar, Token
from dataclasses import dataclass


@dataclass(frozen=True)
class RequestContext:
    """Where a change came from. `ip` and `user_agent` are personal: they leave as commitments."""

    id: str
    method: str = ""
    route: str = ""  # the pattern, never the path: paths carry what people type
    ip: str = ""
    user_agent: str = ""


# A maker and not a value: the route is known only after the context is entered.
_current: ContextVar[Callable[[], RequestContext] | None] = ContextVar("request", default=None)


def enter(
    make: Callable[[], RequestContext],
) -> Token[Callable[[], RequestContext] | None]:
    return _current.set(make)


def leave(token: Token[Callable[[], RequestContext] | None]) -> None:
    _current.reset(token)


def current() -> RequestContext | None:
    make = _current.get()
    return make() if make else None
