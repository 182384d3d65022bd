"""How the two versions of a rollout answer, counted where it is seen and told to the control plane.

Nothing is counted for endpoints without a rollout under way. A request that one replica failed
and another answered counts once for each: what clients do not notice is a failure all the same.
"""

from collections import Counter
from math import floor, log2

import msgspec

from gateway import store
from gateway.directory import Rollout
from gateway.telling import Telling

# Seconds are counted in buckets of equal ratio, from a millisecond: 8 for each doubling
# (controlplane.endpoints.verdict reads them).
_PER_DOUBLING = 8
_SHORTEST_S = 0.001
_EVERY_S = 2.0

_INSERT = """
INSERT INTO endpoints_versionhealth
    (rollout_id, version, gateway_id, requests, errors, first, total)
SELECT r ->> 0, (r ->> 1)::int4, %s, (r ->> 2)::int4, (r ->> 3)::int4, r -> 4, r -> 5
FROM jsonb_array_elements(%s::jsonb) r
"""


def bucket(seconds: float) -> int:
    return floor(_PER_DOUBLING * log2(max(seconds, _SHORTEST_S) / _SHORTEST_S))


class Tally:
    """Of one version, since it was told last."""

    __slots__ = ("errors", "first", "requests", "total")

    def __init__(self) -> None:
        self.requests = self.errors = 0
        self.first: Counter[int] = Counter()
        self.total: Counter[int] = Counter()

    def add(self, other: "Tally") -> None:
        self.requests += other.requests
        self.errors += other.errors
        self.first.update(other.first)
        self.total.update(other.total)


class Trials:
    """One worker's. Every try at a replica ends in `served` or `failed`, or says nothing."""

    def __init__(self) -> None:
        self.tallies: dict[tuple[str, int], Tally] = {}  # by rollout and version

    def served(
        self, rollout: Rollout, replica_id: str, first_s: float | None, total_s: float
    ) -> None:
        """It answered completely. Seconds are from when it was asked; `first_s` None: no stream."""
        tally = self._of(rollout, replica_id)
        tally.requests += 1
        if first_s is not None:
            tally.first[bucket(first_s)] += 1
        tally.total[bucket(total_s)] += 1

    def failed(self, rollout: Rollout, replica_id: str) -> None:
        """By its own fault: unreachable, gone, silent, or an answer of 5xx."""
        tally = self._of(rollout, replica_id)
        tally.requests += 1
        tally.errors += 1

    def _of(self, rollout: Rollout, replica_id: str) -> Tally:
        version = rollout.version if replica_id in rollout.replica_ids else rollout.old_version
        tally = self.tallies.get((rollout.id, version))
        if tally is None:
            tally = self.tallies[rollout.id, version] = Tally()
        return tally


class Teller:
    """Writes what was counted, every two seconds at most; in an outage of PostgreSQL it waits."""

    def __init__(
        self, trials: Trials, store: store.Store, gateway_id: str, every_s: float = _EVERY_S
    ) -> None:
        self._trials = trials
        self._store = store
        self._gateway_id = gateway_id
        self._telling = Telling("trials", self._tell, min(_EVERY_S, every_s))

    async def start(self) -> None:
        self._telling.start()

    async def stop(self) -> None:
        await self._telling.stop()

    async def _tell(self) -> None:
        trials = self._trials
        told, trials.tallies = trials.tallies, {}
        if not told:
            return
        rows = [
            (rollout, version, one.requests, one.errors, one.first, one.total)
            for (rollout, version), one in told.items()
        ]
        try:
            encoded = msgspec.json.encode(rows).decode()
            async with self._store.connection() as connection:
                await connection.execute(_INSERT, (self._gateway_id, encoded))
        except BaseException:
            for key, tally in told.items():
                trials.tallies.setdefault(key, Tally()).add(tally)
            raise
