"""When a replica that is said to be ready gets no more requests, and how it comes back.

After a few failures in a row it is out, for a time that doubles with each further failure; then
one request may try it, and what becomes of that one decides. Pure: time is told.
"""

LOST = 3  # in a row: unreachable, gone or silent before a first byte
REFUSED = 5  # in a row: answered with 5xx, which one caller's odd requests may also earn
_OUT_S = 1.0
_OUT_MAX_S = 30.0
_FORGIVEN_S = 60.0  # without a failure: the next time out starts short again


class Standing:
    """One replica's: `out` until it has served again."""

    __slots__ = ("_failed_at", "_out_s", "ejected_at", "failures", "out", "probing", "until")

    def __init__(self) -> None:
        self.failures = 0  # in a row
        self.out = False
        self.until = 0.0
        self.ejected_at = 0.0  # since when it is out, or was last
        self.probing = False  # the one request is on its way
        self._failed_at = 0.0
        self._out_s = 0.0

    def failed(self, now: float, limit: int = LOST) -> bool:
        """One more; True when it is this one that puts the replica out."""
        if now - self._failed_at > _FORGIVEN_S:
            self._out_s = 0.0
        self._failed_at = now
        self.failures += 1
        if self.out:
            if now >= self.until:
                self._close(now)  # the probe, or what was in flight and ended as late
            return False
        if self.failures < limit:
            return False
        self._close(now)
        return True

    def eject(self, now: float) -> None:
        """At once, for a silence that is proof enough."""
        self.failures += 1
        self._failed_at = now
        self._close(now)

    def succeeded(self, now: float) -> None:
        self.failures = 0
        self.out = False

    def may_probe(self, now: float, *, alone: bool) -> bool:
        """`alone`: nothing else is left, so the time out is as short as it gets."""
        if self.probing:
            return False
        return now >= (min(self.until, self._failed_at + _OUT_S) if alone else self.until)

    def wait_s(self, now: float) -> float:
        return max(0.0, min(self.until, self._failed_at + _OUT_S) - now)

    def _close(self, now: float) -> None:
        if not self.out:
            self.ejected_at = now
        self.out = True
        self._out_s = min(_OUT_MAX_S, self._out_s * 2 or _OUT_S)
        self.until = now + self._out_s
