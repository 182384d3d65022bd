"""Serves one replica until it is told to end: python -m workers.agent.egress DIRECTORY."""

import asyncio
import contextlib
import signal
import sys
from pathlib import Path

from workers.agent.egress.proxy import Proxy

TEND_S = 1.0


async def serve(directory: Path) -> None:
    proxy, ended = Proxy(directory), asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, ended.set)
    await proxy.start()
    while not ended.is_set():
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(TEND_S):
                await ended.wait()
        proxy.tend()
    await proxy.close()


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python -m workers.agent.egress DIRECTORY")
    asyncio.run(serve(Path(sys.argv[1])))
