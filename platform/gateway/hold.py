"""Endpoints at zero: what wakes them, and when they will be there. Times are on the loop's clock.

A start is measured by the control plane (`Endpoint.start_s`); this process knows since when one
is under way. Both together are an honest Retry-After.
"""

import asyncio
import math

from gateway.activity import Activity
from gateway.directory import Endpoint

_KNOCK_S = 2.0  # long enough for the control plane to hear of it
_UNKNOWN_START_S = 10.0  # of an endpoint that has never started yet
_KEPT = 10_000


class Wakes:
    def __init__(self, activity: Activity) -> None:
        self._activity = activity
        self._began: dict[str, float] = {}  # by endpoint: since when it is being started
        self._knocks: dict[str, asyncio.TimerHandle] = {}

    def knock(self, endpoint: Endpoint) -> None:
        """Wake the endpoint for a request that will not wait: its client tries again later."""
        self.begun(endpoint)
        if endpoint.id not in self._knocks:
            self._activity.waiting(endpoint.id, 1)
            loop = asyncio.get_running_loop()
            self._knocks[endpoint.id] = loop.call_later(_KNOCK_S, self._left, endpoint.id)

    def _left(self, endpoint_id: str) -> None:
        del self._knocks[endpoint_id]
        self._activity.waiting(endpoint_id, -1)

    def begun(self, endpoint: Endpoint) -> None:
        """Somebody wants it. A start that should be long over began anew, unseen by us."""
        now = asyncio.get_running_loop().time()
        began = self._began.get(endpoint.id)
        if began is None or now - began > 3 * _usual(endpoint) + 60:
            if began is None and len(self._began) >= _KEPT:
                del self._began[next(iter(self._began))]
            self._began[endpoint.id] = now

    def awake(self, endpoint_id: str) -> None:
        self._began.pop(endpoint_id, None)

    def retry_after(self, endpoint: Endpoint) -> int:
        """Seconds until it will probably be ready; of an overdue start nobody knows."""
        usual = _usual(endpoint)
        began = self._began.get(endpoint.id)
        left = usual - (asyncio.get_running_loop().time() - began if began is not None else 0.0)
        return max(1, math.ceil(left if left > 0 else usual / 4))


def _usual(endpoint: Endpoint) -> float:
    return _UNKNOWN_START_S if endpoint.start_s is None else endpoint.start_s
