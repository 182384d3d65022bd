"""Whether an engine that is to stop or to sleep still has somebody to answer. Pure.

Gateways send to a replica until they have heard that it is no longer ready. So one that answers
nobody is not done yet: it has to stay so for a moment after it left, or after its last answer.
"""

from collections.abc import Callable

SETTLED_S = 1.0  # a gateway hears of a change in some 20 ms, and of one that got lost in a second
SILENT_S = 15.0  # an engine that says nothing for so long hangs: nobody gets an answer from it


class Answering:
    """`left_at`: when it was last open to gateways; 0: never. Of `clock`, in seconds."""

    def __init__(self, left_at: float, *, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._known = left_at > 0
        self._quiet_since = left_at
        self._heard_at = clock()

    def over(self, busy: bool | None) -> bool:
        """Whether it is done, by what it says now; None: it does not say."""
        now = self._clock()
        if busy is None:
            return not self._known or now - self._heard_at >= SILENT_S
        self._heard_at = now
        if busy:
            self._quiet_since = now
            return False
        return not self._known or now - self._quiet_since >= SETTLED_S
