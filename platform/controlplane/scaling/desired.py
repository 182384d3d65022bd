"""From the signal to a number of replicas: up in a panic or with the trend, down by hysteresis."""

import bisect
import math
from collections.abc import Sequence
from dataclasses import dataclass

_EXACT = 1e-9  # what float sums may be beside a whole number


@dataclass(frozen=True, slots=True)
class Sample:
    """The utilization since `age_s` ago, until the next sample."""

    age_s: float
    utilization: float


@dataclass(frozen=True, slots=True)
class Windows:
    """How quick and how full. `target`: the utilization of each replica that is aimed at.

    Panic: the mean over `panic_s` is more than `panic_at` times all replicas, ready or coming.
    Down: in `down_s` no mean over `panic_s` was above `target` less `dead_band` of fewer replicas.
    """

    target: float = 0.7
    panic_s: float = 2.0
    panic_at: float = 1.0
    stable_s: float = 60.0
    down_s: float = 60.0
    dead_band: float = 0.1

    @property
    def memory_s(self) -> float:
        """How far back samples are looked at."""
        return max(self.stable_s, self.down_s + self.panic_s)


USUAL = Windows()


def desired(
    samples: Sequence[Sample],
    current: int,
    windows: Windows,
    *,
    min_replicas: int,
    max_replicas: int,
) -> int:
    """How many replicas there should be, `current` being how many there are or come.

    Samples are oldest first; before the first one there was no load. It never answers 0 to a
    load, nor less than one to keep: whether the last one goes is for keep-alive to say.
    """
    wanted = current
    busy = bool(samples) and samples[-1].utilization > 0
    if busy:
        wanted = max(wanted, 1)
    past = Past(samples)
    now = past.mean(windows.panic_s)
    if now > windows.panic_at * current:
        wanted = max(wanted, _replicas(now, windows.target))
    wanted = max(wanted, _replicas(past.mean(windows.stable_s), windows.target))
    if wanted <= current:
        highest = past.peak(windows.panic_s, windows.down_s)
        enough = _replicas(highest, windows.target * (1.0 - windows.dead_band))
        wanted = min(current, max(1, enough))
    return max(min_replicas, min(wanted, max_replicas))


class Past:
    """The area under the samples by age, so that any mean is two look-ups."""

    def __init__(self, samples: Sequence[Sample]) -> None:
        self._ages, self._areas, self._levels = [0.0], [0.0], [0.0]
        for sample in reversed(samples):
            newer = self._ages[-1]
            if sample.age_s > newer:
                self._areas.append(self._areas[-1] + sample.utilization * (sample.age_s - newer))
                self._ages.append(sample.age_s)
                self._levels.append(sample.utilization)

    def mean(self, span_s: float, until_s: float = 0.0) -> float:
        """Over the `span_s` seconds that ended `until_s` ago, weighed by time."""
        return (self._area(until_s + span_s) - self._area(until_s)) / span_s

    def peak(self, span_s: float, back_s: float) -> float:
        """The highest mean over `span_s` that ended within `back_s`.

        It is where a sample begins, or left the span: between those a mean is linear.
        """
        moments = {0.0, back_s}
        for age_s in self._ages:
            moments |= {age_s, age_s - span_s}
        return max(self.mean(span_s, moment) for moment in moments if 0.0 <= moment <= back_s)

    def _area(self, age_s: float) -> float:
        """From `age_s` ago until now."""
        after = bisect.bisect_left(self._ages, age_s)
        if after == len(self._ages):
            return self._areas[-1]
        return self._areas[after] - self._levels[after] * (self._ages[after] - age_s)


def _replicas(utilization: float, target: float) -> int:
    return math.ceil(utilization / target - _EXACT)
