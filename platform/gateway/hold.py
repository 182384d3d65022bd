"""A request waits here for an endpoint that has no ready replica."""

import asyncio
from collections import Counter

from gateway import errors
from gateway.activity import Activity
from gateway.directory import Endpoint
from gateway.keeper import Keeper

_KNOCK_S = 2.0  # long enough for the control plane to hear of it


class Hold:
    """How many wait, by endpoint. A waiting request is what wakes an endpoint at zero."""

    def __init__(self, keeper: Keeper, activity: Activity, limit: int) -> None:
        self._keeper = keeper
        self._activity = activity
        self._limit = limit
        self._waiting: Counter[str] = Counter()

    def enter(self, endpoint: Endpoint, retry_after_s: int) -> None:
        """Raises 503 when as many as may be wait already. Pair it with `leave`."""
        if self._waiting[endpoint.id] >= self._limit:
            raise errors.endpoint_starting(endpoint.name, retry_after_s)
        self._waiting[endpoint.id] += 1
        self._activity.waiting(endpoint.id, 1)

    def leave(self, endpoint: Endpoint) -> None:
        self._waiting[endpoint.id] -= 1
        if not self._waiting[endpoint.id]:
            del self._waiting[endpoint.id]
        self._activity.waiting(endpoint.id, -1)

    def knock(self, endpoint: Endpoint) -> None:
        """Wake the endpoint for a request that will not wait: its client tries again later."""
        if not self._waiting[endpoint.id]:
            self._waiting[endpoint.id] += 1
            self._activity.waiting(endpoint.id, 1)
            asyncio.get_running_loop().call_later(_KNOCK_S, self.leave, endpoint)

    @property
    def count(self) -> int:
        return self._waiting.total()

    async def ready(self, project_id: str, endpoint_id: str, name: str) -> Endpoint:
        """The endpoint once it has a replica. Raises 404 or 503 once it is gone or stopped.

        Nothing is awaited between a look at the directory and the wait for the next one, so no
        change can slip through.
        """
        while True:
            endpoint = self._keeper.current.endpoint(project_id, endpoint_id)
            if endpoint is None:
                raise errors.model_not_found(name)
            if endpoint.stopped:
                raise errors.endpoint_stopped(name)
            if endpoint.replicas:
                return endpoint
            await self._keeper.changed()
