"""How many clients one process holds, and who goes when there is no room for another.

Without a bound, whoever opens connections and says nothing takes every descriptor, and with them
the spool's and the engines'.
"""

import asyncio
import heapq
import resource
from collections.abc import Collection
from typing import cast

from gateway.context import Connection

_OTHERS = 500  # descriptors of everything that is no client
_SHARE = 20  # of those that may go, so many hundredths go at once: it costs a look at all


def room(connections: int) -> int:
    """As many of them as the system lets this process have; each may need one to an engine too."""
    needed = 2 * connections + _OTHERS
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < needed:
        soft = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return min(connections, max(1, (soft - _OTHERS) // 2))


def admit(clients: Collection[Connection], limit: int) -> bool:
    """Whether one more may come; if need be, those go whose next request has not come yet.

    First those that say nothing, the longest idle first; then those that are slow to ask.
    """
    if len(clients) < limit:
        return True
    spare = [client for client in clients if client.spare]
    count = max(1, len(spare) * _SHARE // 100)
    for client in heapq.nsmallest(count, spare, key=lambda each: (each.asking, each.deadline)):
        client.abort()
    return bool(spare)


class Refused(asyncio.Protocol):
    """A client for whom there is no room: everybody here is being served."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        cast("asyncio.Transport", transport).abort()
