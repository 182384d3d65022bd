"""The replicas of each endpoint as the router sees them, and what may be tried again."""

import math
from collections.abc import Collection, Iterable, Sequence
from typing import Protocol

from gateway.outliers import LOST
from gateway.router import Lane, Ticket, choose

_CAPACITY = 2000  # blocks of text in one replica's cache: about a million tokens
_PATIENCE = (5.0, 4.0)  # seconds, and times what a prompt was to take, without a sign of life
_GUESSING = (60.0, 20.0)  # the same where the rate is a guess, or nothing else is left
_RETRIES_FREE = 100.0  # kept ready
_RETRIES_MAX = 1000.0
_RETRIES_SHARE = 0.1  # of recent requests
_RETRIES_A_SECOND = 10.0


class Named(Protocol):
    @property
    def id(self) -> str: ...


class Pool:
    """One endpoint's."""

    __slots__ = ("_known", "_retries", "_retries_at", "_troubled", "lanes", "replicas")

    def __init__(self) -> None:
        self.replicas: Sequence[Named] = ()
        self.lanes: list[Lane] = []
        self._known: dict[str, Lane] = {}
        self._troubled = False  # some lane may be out
        self._retries = _RETRIES_FREE
        self._retries_at = 0.0

    def adopt(self, replicas: Sequence[Named]) -> None:
        """The directory's list. A replica that stays keeps what was learned of it."""
        known = self._known
        paces = [lane.pace for lane in known.values() if lane.known]
        usual = (sum(paces) / len(paces),) if paces else ()
        self.lanes = [known.get(one.id) or Lane(one.id, _CAPACITY, *usual) for one in replicas]
        self._known = {lane.id: lane for lane in self.lanes}
        self.replicas = replicas

    def dispatch(
        self,
        size: int,
        keys: Sequence[int],
        now: float,
        *,
        visible: bool = True,
        tried: Collection[str] = (),
    ) -> Ticket | None:
        """None when there is no replica, or none that is not out or was not tried."""
        lanes = self.lanes
        if self._troubled or tried:
            lanes = self._usable(now, tried)
        if not lanes:
            return None
        if self._retries < _RETRIES_MAX:
            self._retries += _RETRIES_SHARE
        lane, work = choose(lanes, size, keys, now)
        if keys:
            lane.prefixes.add(keys)
        ticket = lane.dispatched(size, work, now, visible=visible)
        if lane.standing.out:
            lane.standing.probing = ticket.probe = True
        return ticket

    def _usable(self, now: float, tried: Collection[str]) -> list[Lane]:
        self._troubled = any(lane.standing.out for lane in self.lanes)
        fine = [lane for lane in self.lanes if not lane.standing.out and lane.id not in tried]
        if self._troubled and not tried:
            # The one request that decides goes there whatever the estimate says.
            for lane in self.lanes:
                if lane.standing.out and lane.standing.may_probe(now, alone=not fine):
                    return [lane]
        return fine

    def failed(self, ticket: Ticket, now: float, limit: int = LOST, *, died: bool = False) -> bool:
        """It ended before its first byte, by the replica's fault; True when that puts it out."""
        lane = ticket.lane
        lane.end(ticket, now, served=False)
        if died:
            lane.died()
        if limit != LOST and len(self._usable(now, (lane.id,))) == 0:
            return False  # the last one is not shut for what it still answers
        out = lane.standing.failed(now, limit)
        self._troubled = self._troubled or lane.standing.out
        return out

    def may_retry(self, now: float) -> bool:
        """Whether the budget has one more; it is taken."""
        if self._retries < _RETRIES_FREE:
            gained = (now - self._retries_at) * _RETRIES_A_SECOND
            self._retries = min(_RETRIES_FREE, self._retries + gained)
        self._retries_at = now
        if self._retries < 1:
            return False
        self._retries -= 1
        return True

    def retry_after_s(self, now: float) -> int:
        """When every replica is out: whole seconds until one of them may be tried."""
        waits = [lane.standing.wait_s(now) for lane in self.lanes]
        return max(1, math.ceil(min(waits, default=0.0)))

    def patrol(self, now: float) -> list[Ticket]:
        """Put out who has been silent for too long; what waits there and can go elsewhere."""
        stranded: list[Ticket] = []
        for lane in self.lanes:
            if lane.heard:
                lane.heard, lane.heard_at = False, now
            if not lane.in_flight:
                continue
            since, expected = lane.overdue(now)
            if since < _PATIENCE[0] or (lane.standing.out and not lane.standing.probing):
                continue
            others = [one for one in self.lanes if one is not lane and not one.standing.out]
            floor_s, times = _PATIENCE if lane.known and others else _GUESSING
            if since < floor_s + times * expected:
                continue
            lane.standing.eject(now)
            self._troubled = True
            if others:
                stranded += lane.awaited()
        return stranded


class Pools:
    """Of all endpoints that were asked for."""

    __slots__ = ("_pools",)

    def __init__(self) -> None:
        self._pools: dict[str, Pool] = {}

    def of(self, endpoint_id: str, replicas: Sequence[Named]) -> Pool:
        pool = self._pools.get(endpoint_id)
        if pool is None:
            pool = self._pools[endpoint_id] = Pool()
        if pool.replicas is not replicas:
            pool.adopt(replicas)
        return pool

    def patrol(self, now: float) -> list[Ticket]:
        return [ticket for pool in self._pools.values() for ticket in pool.patrol(now)]

    def keep(self, endpoint_ids: Iterable[str]) -> None:
        """Forget every other endpoint."""
        for gone in self._pools.keys() - set(endpoint_ids):
            del self._pools[gone]
