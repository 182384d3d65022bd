"""Requests that two engines died of, or so it looks: they are refused for a while.

So one poisoned request cannot fell every replica, whichever workers of this host it came to. One
engine's death counts once, however many asked the same of it. Kept in memory only, as keyed hashes
of what went to the engine (its cache salt tells the organizations apart), a bounded number of them;
the key is a new secret with each life of that memory.
"""

import hashlib

from billing.windows import ALWAYS_US
from gateway.table import ENDS_US, FREE, Slots

SLOTS = 1 << 10
_DEATHS = 2
_KEPT_S = 300.0
_COUNT, _ENGINE = FREE, FREE + 1  # how many engines, and the last of them


class Suspects:
    """All times are of one clock that the workers share, in seconds."""

    __slots__ = ("_last_us", "_secret", "_slots")

    def __init__(self, slots: Slots) -> None:
        self._slots = slots
        self._secret = slots.secret
        with slots.locked():
            self._last_us = slots.find("until when there are any", ALWAYS_US, 0) + FREE

    def died(self, body: bytes, replica_id: str, now: float) -> None:
        """Its engine went away while it had this body to answer, and nothing had come of it."""
        slots, words = self._slots, self._slots.words
        now_us, until_us = int(now * 1e6), int((now + _KEPT_S) * 1e6)
        engine = int(self._mark(replica_id.encode())[:15], 16)
        with slots.locked():
            slot = slots.find(self._mark(body), until_us, now_us)
            if words[slot + ENDS_US] <= now_us:
                words[slot + _COUNT] = 0  # too long ago
            if not words[slot + _COUNT] or words[slot + _ENGINE] != engine:
                words[slot + _ENGINE] = engine
                words[slot + _COUNT] += 1
            words[slot + ENDS_US] = until_us
            words[self._last_us] = max(words[self._last_us], until_us)

    def refused_for(self, body: bytes, now: float) -> float:
        """How many seconds more it is refused; 0: it is not. Costs nothing without suspects."""
        slots, words = self._slots, self._slots.words
        now_us = int(now * 1e6)
        if words[self._last_us] <= now_us:
            return 0.0
        with slots.locked():
            slot = slots.seek(self._mark(body))
            if not slot or words[slot + _COUNT] < _DEATHS:
                return 0.0
            return max(0, words[slot + ENDS_US] - now_us) / 1e6

    def _mark(self, body: bytes) -> str:
        return hashlib.blake2b(body, key=self._secret, digest_size=16).hexdigest()
