"""How far this machine's clock is from the control plane's.

A reply says when it was written: somewhere between our asking and its arrival. So the offset is
known to half the round trip, and of the newest replies the quickest knows it best.
"""

from collections import deque
from dataclasses import dataclass

from controlplane.fleet.wire import CLOCK_SKEW_S, Finding, Severity

OFF_S, FAR_OFF_S = 1.0, 30.0
_SAMPLES = 8


@dataclass(frozen=True)
class Sample:
    offset_s: float  # theirs less ours
    within_s: float  # half the round trip

    @property
    def surely_s(self) -> float:
        """Off by at least so much."""
        return max(0.0, abs(self.offset_s) - self.within_s)


class Clock:
    """Unix seconds throughout."""

    def __init__(self) -> None:
        self._samples: deque[Sample] = deque(maxlen=_SAMPLES)

    def heard(self, sent: float, theirs: float, received: float) -> None:
        """One reply; a clock that was set in between tells nothing."""
        if theirs > 0 and received >= sent:
            offset = theirs - (sent + received) / 2
            self._samples.append(Sample(offset, (received - sent) / 2))

    def best(self) -> Sample | None:
        return min(self._samples, key=lambda one: one.within_s, default=None)

    def findings(self) -> list[Finding]:
        best = self.best()
        if best is None or best.surely_s < OFF_S:
            return []
        which = "behind" if best.offset_s > 0 else "ahead of"
        text = (
            f"{abs(best.offset_s):.1f} s {which} the control plane's clock, give or take"
            f" {best.within_s:.2f} s; beyond {CLOCK_SKEW_S} s nothing is heard of this node"
        )
        severity = Severity.CRITICAL if best.surely_s >= FAR_OFF_S else Severity.WARNING
        cure = "start an NTP service (chrony or systemd-timesyncd)"
        return [Finding(check="clock_offset", severity=severity, text=text, cure=cure)]
