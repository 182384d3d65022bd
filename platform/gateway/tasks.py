"""Ending background tasks for certain."""

import asyncio
from typing import Any

_AGAIN_S = 0.5


async def end(*tasks: asyncio.Task[Any] | None) -> None:
    """Cancel tasks until they have ended, whatever their result.

    Once is not enough: up to Python 3.11 `asyncio.wait_for` drops a cancellation that comes
    together with what it waits for, and a query that is cancelled first asks the server.
    """
    running = {task for task in tasks if task is not None}
    while running := {task for task in running if not task.done()}:
        for task in running:
            task.cancel()
        await asyncio.wait(running, timeout=_AGAIN_S)
    for ended in tasks:
        if ended is not None and not ended.cancelled():
            ended.exception()  # seen: nobody else will look
