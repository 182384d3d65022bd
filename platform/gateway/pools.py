"""The replicas of each endpoint as the router sees them, and what may be tried again."""

import math
from collections.abc import Callable, Collection, Sequence

from gateway.directory import Directory, Endpoint, Replica
from gateway.outliers import LOST
from gateway.prefixes import BLOCK, TOKEN_BYTES
from gateway.router import Lane, Ticket, choose

_CAPACITY = 2000  # blocks of text in a replica's cache, if it did not say: a million tokens
_CAPACITY_ALL = 500_000  # of all replicas together: some 50 MB
_SILENT_S = 5.0  # without a sign of life, beyond _PATIENCE times what a prompt was to take …
_PATIENCE = 4.0
_UNSURE = 12.0  # … all so many times where the pace is a guess, or nothing else is left
_RETRIES_FREE = 100.0  # kept ready
_RETRIES_MAX = 1000.0
_RETRIES_SHARE = 0.1  # of recent requests
_RETRIES_A_SECOND = 10.0


def named(endpoint: Endpoint, replica: str = "") -> bytes:
    """The header lines that say who answers."""
    lines = f"x-stoa-endpoint: {endpoint.name}\r\nx-stoa-region: {endpoint.region}\r\n"
    return (f"{lines}x-stoa-replica: {replica}\r\n" if replica else lines).encode()


def _blocks(replica: Replica) -> int:
    """How many of the router's blocks its cache holds."""
    tokens = replica.kv_tokens
    return _CAPACITY if tokens is None else max(1, tokens * TOKEN_BYTES // BLOCK)


class Pool:
    """One endpoint's."""

    __slots__ = ("_known", "_retries", "_retries_at", "_silent_s", "_troubled", "endpoint", "lanes")

    def __init__(self, silent_s: float = _SILENT_S) -> None:
        self._silent_s = silent_s
        self.endpoint: Endpoint | None = None  # as the directory had it last
        self.lanes: list[Lane] = []
        self._known: dict[str, Lane] = {}
        self._troubled = False  # some lane may be out
        self._retries = _RETRIES_FREE
        self._retries_at = 0.0

    def adopt(self, replicas: Sequence[Replica]) -> None:
        """The directory's list. A replica that stays keeps what was learned of it."""
        known, self._known = self._known, {}
        paces = [lane.pace for lane in known.values() if lane.known]
        usual = (sum(paces) / len(paces),) if paces else ()
        for replica in replicas:
            lane = known.get(replica.id)
            if lane is None or lane.replica.address != replica.address:
                lane = Lane(replica, _blocks(replica), *usual)
            lane.replica = replica  # what is said of it may be newer
            self._known[replica.id] = lane
        self.lanes = list(self._known.values())

    def dispatch(
        self,
        size: int,
        keys: Sequence[int],
        now: float,
        *,
        visible: bool = True,
        tried: Collection[str] = (),
        full: Collection[str] = (),
        take: Callable[[Replica], bool] | None = None,
    ) -> Ticket | None:
        """None when there is no replica, or none that is not out or full or was not tried, and
        that `take` can have."""
        lanes = self.lanes
        if self._troubled or tried or full:
            lanes = self.usable(now, tried, full)
        if not lanes:
            return None
        lane, work = choose(lanes, size, keys, now)
        while take is not None and not take(lane.replica):
            lanes = [one for one in lanes if one is not lane]
            if not lanes:
                return None
            lane, work = choose(lanes, size, keys, now)
        if self._retries < _RETRIES_MAX:
            self._retries += _RETRIES_SHARE
        if keys:
            lane.cached(keys, work, now)
        ticket = lane.dispatched(size, work, now, visible=visible)
        if lane.standing.out:
            lane.standing.probing = ticket.probe = True
        return ticket

    def usable(self, now: float, tried: Collection[str], full: Collection[str] = ()) -> list[Lane]:
        """Those that are not out and were not tried; or one that only a request can prove well."""
        self._troubled = any(lane.standing.out for lane in self.lanes)
        fine = [
            lane
            for lane in self.lanes
            if not lane.standing.out and lane.id not in tried and lane.id not in full
        ]
        if self._troubled and not tried:
            # The one request that decides goes there whatever the estimate says.
            for lane in self.lanes:
                if lane.id not in full and lane.due(now, alone=not fine):
                    return [lane]
        return fine

    def shut(self, now: float, *, probing: bool) -> Collection[str]:
        """Replicas that get nothing now though others do; `probing`: but for one that is due."""
        if not self._troubled or all(lane.standing.out for lane in self.lanes):
            return ()
        return {
            lane.id
            for lane in self.lanes
            if lane.standing.out and not (probing and lane.due(now, alone=False))
        }

    def failed(self, ticket: Ticket, now: float, limit: int = LOST) -> None:
        """It ended by the replica's fault."""
        lane = ticket.lane
        lane.end(ticket, now, served=False)
        if limit != LOST and not self.usable(now, (lane.id,)):
            return  # the last one is not shut for what it still answers
        if lane.standing.failed(now, limit):
            self._troubled = True
            lane.prefixes.clear()  # it has probably died

    def hear(self, lane: Lane, now: float) -> bool:
        """Another worker has put it out. True if that is news, and there are others."""
        if lane.standing.out or not self.usable(now, (lane.id,)):
            return False
        lane.standing.eject(now)
        lane.prefixes.clear()
        self._troubled = True
        return True

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
            if since < self._silent_s or (lane.standing.out and not lane.standing.probing):
                continue
            others = [one for one in self.lanes if one is not lane and not one.standing.out]
            unsure = 1.0 if lane.known and others else _UNSURE
            if since < unsure * (self._silent_s + _PATIENCE * expected):
                continue
            lane.standing.eject(now)
            self._troubled = True
            stranded += [one for one in lane.awaited() if others or one.probe]
        return stranded

    def doubtful(self, now: float) -> list[Lane]:
        """Whose health no request shows: they are out, or owe whole answers and say nothing."""
        alone = all(lane.standing.out for lane in self.lanes)
        return [
            lane
            for lane in self.lanes
            if not lane.mute
            and not lane.standing.probing
            and (
                lane.standing.may_probe(now, alone=alone)
                if lane.standing.out
                else lane.unheard(now) > self._silent_s
            )
        ]

    def probing(self, lane: Lane, now: float) -> Ticket:
        """The ticket of a probe: one at a time."""
        ticket = lane.dispatched(1, 1, now)
        ticket.probe = lane.standing.probing = True
        return ticket


class Pools:
    """Of all endpoints that were asked for."""

    __slots__ = ("_kept", "_pools", "_silent_s")

    def __init__(self, silent_s: float = _SILENT_S) -> None:
        self._silent_s = silent_s
        self._kept: Directory | None = None
        self._pools: dict[str, Pool] = {}

    def of(self, endpoint: Endpoint) -> Pool:
        pool = self._pools.get(endpoint.id)
        if pool is None:
            pool = self._pools[endpoint.id] = Pool(self._silent_s)
        if pool.endpoint is not endpoint:
            pool.endpoint = endpoint
            pool.adopt(endpoint.replicas)
            for lane in pool.lanes:
                lane.named = named(endpoint, lane.id)
                if not endpoint.openai:
                    lane.mute = True  # a probe of ours would be a request that it does not know
        return pool

    def find(self, endpoint_id: str) -> Pool | None:
        """The endpoint's, if any request has asked for it."""
        return self._pools.get(endpoint_id)

    @property
    def in_flight(self) -> int:
        return sum(lane.in_flight for pool in self._pools.values() for lane in pool.lanes)

    @property
    def out(self) -> int:
        """How many replicas get no requests because they failed."""
        lanes = (lane for pool in self._pools.values() for lane in pool.lanes)
        return sum(1 for lane in lanes if lane.standing.out)

    def all(self) -> list[Pool]:
        return list(self._pools.values())

    def keep(self, directory: Directory) -> None:
        """Follow the directory: forget the endpoints and replicas that it lacks."""
        if self._kept is not directory:
            self._kept = directory
            gone = set(self._pools)
            for endpoint in directory.every_endpoint():
                if endpoint.id in gone:
                    gone.remove(endpoint.id)
                    self.of(endpoint)
            for endpoint_id in gone:
                del self._pools[endpoint_id]
            self._share()

    def _share(self) -> None:
        """Memory for the prefixes of many replicas is what that of some can have, and no more."""
        several = [pool.lanes for pool in self._pools.values() if len(pool.lanes) > 1]
        share = _CAPACITY_ALL // max(1, sum(map(len, several)))
        for lanes in several:
            for lane in lanes:
                lane.prefixes.resize(min(share, _blocks(lane.replica)))
