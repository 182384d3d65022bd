"""Which replicas a worker of this host has put out, so that the others need not find out.

Each looks into it on its rounds, puts out what it hears of, and finds out for itself when that is
well again.
"""

from gateway.pools import Pool
from gateway.router import Lane
from gateway.table import ENDS_US, Table, TableFull

_AT_US = 4  # a word of a replica's slot: when it was put out last
_NEWS_S = 5.0  # what is older nobody needs to hear
_KEPT_US = 60_000_000


class Outages:
    """One worker's view. `now` is of one clock that the workers share, in seconds."""

    def __init__(self, table: Table) -> None:
        self._table = table
        self._known: dict[str, int] = {}  # by replica: the last that we said or heard

    def round(self, pools: list[Pool], now: float) -> None:
        lanes = [(pool, lane) for pool in pools for lane in pool.lanes]
        known = {lane.id: self._known.get(lane.id, 0) for _, lane in lanes}
        self._known = known
        for pool, lane in lanes:
            own_us = int(lane.standing.ejected_at * 1e6) if lane.standing.out else 0
            if own_us > known[lane.id]:
                known[lane.id] = own_us
                self._tell(lane, own_us)
            elif (heard_us := self._heard(lane)) > known[lane.id]:
                known[lane.id] = heard_us
                if now - heard_us / 1e6 < _NEWS_S and pool.hear(lane, now):
                    known[lane.id] = int(now * 1e6)

    def _tell(self, lane: Lane, at_us: int) -> None:
        table = self._table
        with table.locked():
            try:
                slot = table.find(_name(lane), at_us + _KEPT_US, at_us)
            except TableFull:
                return
            table.words[slot + _AT_US] = max(at_us, table.words[slot + _AT_US])
            table.words[slot + ENDS_US] = at_us + _KEPT_US

    def _heard(self, lane: Lane) -> int:
        slot = self._table.seek(_name(lane))
        return self._table.words[slot + _AT_US] if slot else 0


def _name(lane: Lane) -> str:
    return f"out/{lane.id}"
