"""How much one person may have this process compute in answer to questions: seconds of CPU, not
questions, so that who asks for little may ask often.

Kept in memory, for each process apart: it is the process that it protects.
"""

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

MOST_PEOPLE = 10_000
RESERVED_S = 0.2  # held for each question until it is known what it took


class TooFast(Exception):
    """`wait_s`: seconds until another question is answered."""

    def __init__(self, wait_s: float) -> None:
        super().__init__(f"asked too often: the next answer comes in {wait_s:.0f} s")
        self.wait_s = wait_s


@dataclass
class _Debt:
    seconds: float
    at: float


class Pace:
    """`share` of a core to each in the long run, `most_s` seconds of it at once."""

    def __init__(
        self,
        share: float,
        most_s: float,
        *,
        clock: Callable[[], float] = time.monotonic,
        spent: Callable[[], float] = time.thread_time,
    ) -> None:
        self._share, self._most_s = share, most_s
        self._clock, self._spent = clock, spent
        self._debts: OrderedDict[str, _Debt] = OrderedDict()
        self._lock = threading.Lock()

    @contextmanager
    def paid(self, who: str) -> Iterator[None]:
        """Around what is computed for them, in this thread. Raises TooFast before it begins."""
        with self._lock:
            debt = self._debt(who)
            over = debt.seconds + RESERVED_S - self._most_s
            if over > 0:
                raise TooFast(over / self._share)
            debt.seconds += RESERVED_S
        begun = self._spent()
        try:
            yield
        finally:
            took = self._spent() - begun
            with self._lock:
                debt = self._debt(who)
                debt.seconds = max(0.0, debt.seconds + took - RESERVED_S)

    def _debt(self, who: str) -> _Debt:
        """As it is now: it shrinks by `share` seconds a second."""
        now = self._clock()
        debt = self._debts.setdefault(who, _Debt(0.0, now))
        self._debts.move_to_end(who)
        while len(self._debts) > MOST_PEOPLE:
            self._debts.popitem(last=False)
        debt.seconds = max(0.0, debt.seconds - self._share * (now - debt.at))
        debt.at = now
        return debt


PREDICTIONS = Pace(share=0.25, most_s=4.0)
QUOTES = Pace(share=0.5, most_s=20.0)
