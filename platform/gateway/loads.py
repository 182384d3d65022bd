"""What is in flight at each replica, against what its engine said at its start that it can hold.

One gateway process counts its own requests. Where several share a replica, its engine queues
what they admit too much together.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from gateway.directory import Replica

SAFE = 0.95  # of an engine's KV cache; estimates err, and blocks are not all full


@dataclass(slots=True)
class Place:
    """What a request takes of a replica while it runs: tokens of KV cache, sequences."""

    prompt: int
    output: int  # of each sequence
    sequences: int = 1
    taken: int = 0  # tokens that are counted for it now
    charged: float = 0.0  # to its project, in its queue

    @property
    def tokens(self) -> int:
        return self.prompt + self.output * self.sequences


class _Load:
    __slots__ = ("sequences", "tokens")

    def __init__(self) -> None:
        self.tokens = 0
        self.sequences = 0


def capacity(replica: Replica) -> int | None:
    return None if replica.kv_tokens is None else int(replica.kv_tokens * SAFE)


class Loads:
    def __init__(self) -> None:
        self._loads: dict[str, _Load] = {}

    def tokens(self, replica_id: str) -> int:
        load = self._loads.get(replica_id)
        return load.tokens if load else 0

    def sequences(self, replica_id: str) -> int:
        load = self._loads.get(replica_id)
        return load.sequences if load else 0

    def roomy(
        self, replicas: Sequence[Replica], place: Place, avoid: Collection[str] = ()
    ) -> list[Replica]:
        """Those where it can start at once. An idle one takes anything: its engine knows best."""
        found, loads = [], self._loads
        tokens, sequences = place.tokens, place.sequences
        for replica in replicas:
            load = loads.get(replica.id)
            if load is not None:
                most, held = replica.max_num_seqs, replica.kv_tokens
                if most is not None and load.sequences + min(sequences, most) > most:
                    continue
                if held is not None and load.tokens + min(tokens, int(held * SAFE)) > held * SAFE:
                    continue
            if replica.id not in avoid:
                found.append(replica)
        return found

    def room(self, replica: Replica, place: Place) -> bool:
        return bool(self.roomy((replica,), place))

    def take(self, replica: Replica, place: Place) -> None:
        load = self._loads.get(replica.id)
        if load is None:
            load = self._loads[replica.id] = _Load()
        limit = capacity(replica)
        place.taken = place.tokens if limit is None else min(place.tokens, limit)
        load.tokens += place.taken
        load.sequences += place.sequences

    def correct(self, replica_id: str, place: Place, prompt: int, output: int) -> bool:
        """The engine has said what it holds by now; True if that left room for others."""
        holds = prompt + max(output, place.output * place.sequences)
        change = holds - place.taken
        place.taken = holds
        self._loads[replica_id].tokens += change
        return change < 0

    def give(self, replica_id: str, place: Place) -> None:
        load = self._loads[replica_id]
        load.tokens -= place.taken
        load.sequences -= place.sequences
        place.taken = 0
        if not load.sequences:
            del self._loads[replica_id]
