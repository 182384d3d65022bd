"""What an endpoint remembers of its gaps: a histogram on a logarithmic scale, of fixed size.

It begins with a little of the scale-free prior (every order of magnitude is as likely), which a
few real gaps outweigh, and it forgets: when it holds `MEMORY` gaps, all of them count half.
"""

import math
from collections.abc import Iterable, Mapping
from typing import Any

SHORTEST_S = 0.25  # shorter ones count in the first bin
PER_OCTAVE = 8  # bins are 9 % wide
BINS = 22 * PER_OCTAVE  # up to 12 days; longer ones count in the last bin
MEMORY = 512.0
PRIOR = 2.0  # gaps that the prior weighs
_PRIOR_FROM, _PRIOR_TO = 2 * PER_OCTAVE, 21 * PER_OCTAVE  # 1 s to 6 days

EDGES = tuple(SHORTEST_S * 2 ** (number / PER_OCTAVE) for number in range(BINS + 1))
_PER_E = PER_OCTAVE / math.log(2)


class GapHistory:
    """Counts and sums by bin. Not thread-safe; the caller keeps it as `as_data`."""

    __slots__ = ("_counts", "_sums", "_total")

    def __init__(self) -> None:
        share = PRIOR / (_PRIOR_TO - _PRIOR_FROM)
        self._counts = [share if _PRIOR_FROM <= n < _PRIOR_TO else 0.0 for n in range(BINS)]
        self._sums = [
            count * math.sqrt(EDGES[n] * EDGES[n + 1]) for n, count in enumerate(self._counts)
        ]
        self._total = PRIOR

    def add(self, gap_s: float) -> None:
        """Remember one gap. ValueError if it is negative or no number."""
        if not gap_s >= 0:
            raise ValueError(f"a gap of {gap_s} s")
        number = _bin(gap_s)
        self._counts[number] += 1
        self._sums[number] += min(gap_s, EDGES[BINS])
        self._total += 1
        if self._total >= MEMORY:
            self._counts = [count / 2 for count in self._counts]
            self._sums = [total / 2 for total in self._sums]
            self._total /= 2

    def cheapest(self, break_even_s: float, shortest_s: float, longest_s: float) -> float:
        """The time-out between the two bounds that would have cost least on what is remembered.

        A gap costs its length if it ends in time, else the time-out and `break_even_s` more. Of
        equals the shortest. Tried are both bounds and the edges of bins between them.
        """
        counts, sums = self._counts, self._sums
        first = _bin(shortest_s)
        ended, waited = sum(counts[:first]), sum(sums[:first])
        if counts[first] and sums[first] <= counts[first] * shortest_s:  # most of that bin
            ended, waited, first = ended + counts[first], waited + sums[first], first + 1
        best_s = shortest_s
        best = waited + (self._total - ended) * (shortest_s + break_even_s)
        for number in range(first, BINS):
            if EDGES[number] >= longest_s:
                break
            ended += counts[number]
            waited += sums[number]
            after_s = min(EDGES[number + 1], longest_s)
            cost = waited + (self._total - ended) * (after_s + break_even_s)
            if cost < best * (1 - 1e-9):
                best_s, best = after_s, cost
        return best_s

    def as_data(self) -> dict[str, Any]:
        """What JSON can carry: the bins that hold something, by number."""
        held = {
            str(number): [count, total]
            for number, (count, total) in enumerate(zip(self._counts, self._sums, strict=True))
            if count
        }
        return {"bins": held}

    @classmethod
    def from_data(cls, data: Mapping[str, Any]) -> "GapHistory":
        """The inverse of `as_data`; KeyError, IndexError or ValueError if it is none."""
        history = cls()
        history._counts, history._sums = [0.0] * BINS, [0.0] * BINS
        for number, (count, total) in data["bins"].items():
            history._counts[int(number)] = float(count)
            history._sums[int(number)] = float(total)
        history._total = sum(history._counts)
        return history

    @classmethod
    def of(cls, gaps_s: Iterable[float]) -> "GapHistory":
        history = cls()
        for gap_s in gaps_s:
            history.add(gap_s)
        return history


def _bin(gap_s: float) -> int:
    if gap_s < SHORTEST_S:
        return 0
    return min(BINS - 1, int(math.log(min(gap_s, EDGES[BINS]) / SHORTEST_S) * _PER_E))
