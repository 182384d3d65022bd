"""Which replica serves a request. Pure: what it knows, it is told."""

from collections.abc import Mapping, Sequence
from typing import Protocol, TypeVar


class Candidate(Protocol):
    @property
    def id(self) -> str: ...


C = TypeVar("C", bound=Candidate)


def choose(replicas: Sequence[C], loads: Mapping[str, int]) -> C | None:
    """The replica with the fewest requests in flight; the first of equals; None of none.

    `loads` counts requests by replica id; a replica that it lacks has none.
    """
    if len(replicas) < 2:
        return replicas[0] if replicas else None
    return min(replicas, key=lambda replica: loads.get(replica.id, 0))
