"""Blocking calls beside the event loop.

Daemon threads, not asyncio's pool: that one is joined at exit, and a download that hangs must
not keep a stopped agent alive.
"""

import asyncio
import contextlib
import threading
from collections.abc import Callable
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


async def call(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """The result of a blocking call. Cancelled, it leaves the thread to end by itself."""
    return await _launch(function, *args, **kwargs)


async def finish(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """As `call`, but a cancellation takes effect only when the call is over."""
    future = _launch(function, *args, **kwargs)
    try:
        return await asyncio.shield(future)
    except asyncio.CancelledError:
        await asyncio.wait([future])
        raise


def _launch(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> asyncio.Future[T]:
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()

    def settle(set_outcome: Callable[[], None]) -> None:
        if not future.done():
            set_outcome()

    def run() -> None:
        try:
            value = function(*args, **kwargs)
        except Exception as error:
            caught = error
            _tell(loop, lambda: settle(lambda: future.set_exception(caught)))
        else:
            _tell(loop, lambda: settle(lambda: future.set_result(value)))

    threading.Thread(target=run, name=f"stoa {function!r:.60}", daemon=True).start()
    return future


def _tell(loop: asyncio.AbstractEventLoop, what: Callable[[], None]) -> None:
    with contextlib.suppress(RuntimeError):  # the loop has closed: nobody waits any more
        loop.call_soon_threadsafe(what)
