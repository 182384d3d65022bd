"""How many lines of one stream are sent at once: as many as go through. Pure.

Additive increase, multiplicative decrease: until the first refusal each answer allows one line
more; later a whole round of answers does. A refusal halves what is sent at once, and a time passes
before the next line; a round of refusals counts once.
"""

FIRST_S, MOST_S = 0.25, 5.0


class Pace:
    """Times are seconds on one clock."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._window = 2.0
        self._rising = True
        self._pause_s = FIRST_S
        self._until = 0.0
        self._halved_at = float("-inf")
        self.in_flight = 0

    def room(self, now: float) -> int:
        """How many more may be sent now."""
        if now < self._until:
            return 0
        return max(0, int(self._window) - self.in_flight)

    def wait_s(self, now: float) -> float:
        return max(0.0, self._until - now)

    def began(self) -> None:
        self.in_flight += 1

    def answered(self) -> None:
        """It went through, whatever the answer was."""
        self.in_flight -= 1
        self._pause_s = FIRST_S
        self._window += 1.0 if self._rising else 1.0 / self._window
        self._window = min(float(self._most), self._window)

    def refused(self, now: float, began_at: float, asked_s: float | None) -> None:
        """`asked_s`: how long the gateway wants to be left alone, where it said so."""
        self.in_flight -= 1
        self._rising = False
        if began_at >= self._halved_at:
            self._window = max(1.0, self._window / 2)
            self._halved_at = now
            self._until = now + (self._pause_s if asked_s is None else asked_s)
            self._pause_s = min(MOST_S, self._pause_s * 2)
