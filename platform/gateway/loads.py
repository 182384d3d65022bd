"""What is in flight at each replica, against what its engine said at its start that it can hold.

All workers of a host count together, in a table that they share: what its requests hold stands in
a worker's own column, so that it is gone with the worker. A place is looked for without the lock
and taken under it, after a second look: two workers cannot take the same room.
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

from gateway import errors
from gateway.directory import Replica
from gateway.table import COLUMN, HELD, WORDS, Table, TableFull

SAFE = 0.95  # of an engine's KV cache; estimates err, and blocks are not all full

# One word says both: tokens below, sequences above. No request counts for more than MOST tokens,
# whatever it asks for and whatever its engine says of it.
_SEQUENCE = 1 << 44
MOST = 1 << 28
_KEPT_US = 60_000_000  # then a slot of which nobody holds anything may become another's


@dataclass(slots=True)
class Place:
    """What a request takes of a replica while it runs: tokens of KV cache, sequences."""

    prompt: int
    output: int  # of each sequence
    sequences: int = 1
    taken: int = 0  # tokens that are counted for it now
    charged: float = 0.0  # to its project, in its queue
    slot: int = 0  # where they are counted

    @property
    def tokens(self) -> int:
        tokens = self.prompt + self.output * self.sequences
        return tokens if tokens < MOST else MOST


def _fits(replica: Replica, load: int, tokens: int, sequences: int) -> bool:
    """An idle one takes anything: its engine knows best."""
    if load < _SEQUENCE:
        return True
    most, held = replica.max_num_seqs, replica.kv_tokens
    if most is not None and load // _SEQUENCE + min(sequences, most) > most:
        return False
    return held is None or load % _SEQUENCE + min(tokens, int(held * SAFE)) <= held * SAFE


class Loads:
    """One worker's door to the counts. `clock`: seconds, the same for all workers."""

    def __init__(self, table: Table, clock: Callable[[], float]) -> None:
        self._table = table
        self._clock = clock
        self._column = COLUMN + table.column

    def tokens(self, replica_id: str) -> int:
        return self._load(replica_id) % _SEQUENCE

    def sequences(self, replica_id: str) -> int:
        return self._load(replica_id) // _SEQUENCE

    def ours(self, replica_id: str) -> tuple[int, int]:
        """Tokens and sequences of this worker's own requests there."""
        slot = self._table.known(replica_id)
        held = self._table.words[slot + self._column] if slot else 0
        return held % _SEQUENCE, held // _SEQUENCE

    def _load(self, replica_id: str) -> int:
        return self._table.total(self._table.known(replica_id) or self._find(replica_id))

    def roomy(
        self, replicas: Sequence[Replica], place: Place, avoid: Collection[str] = ()
    ) -> list[Replica]:
        """Those where it can probably start at once; `take` knows."""
        found, table, words = [], self._table, self._table.words
        tokens, sequences = place.tokens, place.sequences
        for replica in replicas:
            slot = table.known(replica.id) or self._find(replica.id)
            # At least what the last one who took of it saw: mostly enough to know.
            fits = _fits(replica, words[slot + HELD], tokens, sequences) or _fits(
                replica, table.total(slot), tokens, sequences
            )
            if fits and replica.id not in avoid:
                found.append(replica)
        return found

    def spare(self, replica: Replica, place: Place, share: float) -> bool:
        """Whether a line of a batch would leave free what others may come for: it fills no more
        than this share, though one line always fits into a replica that does nothing."""
        load = self._load(replica.id)
        tokens, sequences = load % _SEQUENCE, load // _SEQUENCE
        if not sequences:
            return True
        most, held = replica.max_num_seqs, replica.kv_tokens
        if most is not None and sequences + place.sequences > most * share:
            return False
        return held is None or tokens + place.tokens <= held * SAFE * share

    def room(self, replica: Replica, place: Place) -> bool:
        return bool(self.roomy((replica,), place))

    def take(self, replica: Replica, place: Place) -> bool:
        """False, and nothing is taken, when others were faster. Raises 503."""
        tokens, held = place.tokens, replica.kv_tokens
        if held is not None and tokens > held * SAFE:
            tokens = int(held * SAFE)
        taken = place.sequences * _SEQUENCE + tokens
        table, words = self._table, self._table.words
        table.lock()
        try:
            slot = table.known(replica.id) or self._place(replica.id)
            load = sum(words[slot + COLUMN : slot + WORDS])
            if not _fits(replica, load, tokens, place.sequences):
                words[slot + HELD] = load
                return False
            words[slot + HELD] = load + taken
            words[slot + self._column] += taken
        finally:
            table.unlock()
        place.slot, place.taken = slot, tokens
        return True

    # Nobody else writes our column, so what follows needs no lock: a taker sees it before or after.
    def correct(self, place: Place, prompt: int, output: int) -> bool:
        """The engine has said what it holds by now; True if that left room for others."""
        if not place.slot:
            return False
        holds = min(MOST, prompt + max(output, place.output * place.sequences))
        change, place.taken = holds - place.taken, holds
        self._table.words[place.slot + self._column] += change
        return change < 0

    def give(self, place: Place) -> None:
        """What `take` took; anything else is nothing."""
        if not place.slot:
            return
        self._table.words[place.slot + self._column] -= place.sequences * _SEQUENCE + place.taken
        place.taken = place.slot = 0

    def _find(self, replica_id: str) -> int:
        with self._table.locked():
            return self._place(replica_id)

    def _place(self, replica_id: str) -> int:
        """Under the lock."""
        now_us = int(self._clock() * 1e6)
        try:
            return self._table.find(replica_id, now_us + _KEPT_US, now_us)
        except TableFull:
            raise errors.gate_full() from None
