"""Requests that were in flight when an engine died: twice, and they are refused for a while.

So one poisoned request cannot fell every replica. Kept in this process's memory only, as keyed
hashes of what went to the engine (its cache salt tells the organizations apart), a bounded number
of them; the key is a new secret in each process.
"""

import hashlib
import secrets

_DEATHS = 2
_KEPT_S = 300.0
_MAX = 1024


class Suspects:
    __slots__ = ("_deaths", "_secret")

    def __init__(self) -> None:
        self._secret = secrets.token_bytes(32)
        self._deaths: dict[bytes, tuple[int, float]] = {}  # and until when; oldest first

    def __len__(self) -> int:
        return len(self._deaths)

    def died(self, body: bytes, now: float) -> None:
        """An engine went away while it had this body to answer, and nothing had come of it."""
        mark = self._mark(body)
        count, until = self._deaths.pop(mark, (0, now))
        self._deaths[mark] = (count + 1 if until > now else 1), now + _KEPT_S
        if len(self._deaths) > _MAX:
            del self._deaths[next(iter(self._deaths))]

    def refused_for(self, body: bytes, now: float) -> float:
        """How many seconds more it is refused; 0: it is not. Costs nothing without suspects."""
        if not self._deaths:
            return 0.0
        self._expire(now)
        count, until = self._deaths.get(self._mark(body), (0, now))
        return until - now if count >= _DEATHS else 0.0

    def _expire(self, now: float) -> None:
        while self._deaths:
            mark = next(iter(self._deaths))
            if self._deaths[mark][1] > now:
                return
            del self._deaths[mark]

    def _mark(self, body: bytes) -> bytes:
        return hashlib.blake2b(body, key=self._secret, digest_size=16).digest()
