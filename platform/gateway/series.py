"""What is counted of one endpoint's requests. Plain sums: those of several can be added up."""

from bisect import bisect_left
from collections import Counter
from collections.abc import Collection, Iterator

from gateway.timing import Split, Timing
from gateway.usage import Usage

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)
# The three that OpenTelemetry's conventions for GenAI name; a wake takes longer than they foresee.
DURATION = (
    0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92,
)  # fmt: skip
FIRST = (
    0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10, 30, 120,
)  # fmt: skip
EACH = (0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1, 2.5)
_BOTH = tuple(sorted({*SECONDS, *DURATION}))  # observed once, shown in two ways


class Histogram:
    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def observe(self, value: float) -> None:
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value

    def add(self, other: "Histogram") -> None:
        self.counts = [a + b for a, b in zip(self.counts, other.counts, strict=True)]
        self.total += other.total

    def lines(self, name: str, labels: str, shown: Collection[float]) -> Iterator[str]:
        """With the buckets `shown`, of those that were observed."""
        running = 0
        for bound, count in zip(self.bounds, self.counts, strict=False):
            running += count
            if bound in shown:
                yield f'{name}_bucket{{{labels},le="{bound}"}} {running}'
        running += self.counts[-1]
        yield f'{name}_bucket{{{labels},le="+Inf"}} {running}'
        yield f"{name}_sum{{{labels}}} {self.total:.6f}"
        yield f"{name}_count{{{labels}}} {running}"


class Series:
    """One endpoint's, by one operation."""

    __slots__ = (
        "cached", "cut", "cut_seconds", "each", "first", "input", "model", "output", "queue",
        "requests", "seconds", "wake",
    )  # fmt: skip

    def __init__(self, model: str) -> None:
        self.model = model  # whose weights
        self.requests: Counter[int] = Counter()  # by status
        self.cut: Counter[str] = Counter()  # by how they ended, where not completely
        self.input = self.cached = self.output = 0
        self.seconds = Histogram(_BOTH)  # of the complete ones
        self.cut_seconds = Histogram(_BOTH)  # of the others
        self.first = Histogram(FIRST)
        self.each = Histogram(EACH)
        self.queue = Histogram(SECONDS)
        self.wake = Histogram(SECONDS)

    def count(
        self, status: int, finish: str, used: Usage, timing: Timing, split: Split, now: float
    ) -> None:
        """A request that ended `now`."""
        self.requests[status] += 1
        self.input += used.input
        self.cached += used.cached
        self.output += used.output
        if timing.queue:
            self.queue.observe(timing.queue)
        if timing.wake:
            self.wake.observe(timing.wake)
        if finish != "complete":
            self.cut[finish] += 1
            self.cut_seconds.observe(now - timing.arrived)
            return
        self.seconds.observe(now - timing.arrived)
        if timing.first:
            self.first.observe(timing.first - timing.arrived)
        if used.output > 1 and split[3]:
            self.each.observe(split[3] / 1000 / (used.output - 1))

    def add(self, other: "Series") -> None:
        self.requests.update(other.requests)
        self.cut.update(other.cut)
        self.input += other.input
        self.cached += other.cached
        self.output += other.output
        for name in ("seconds", "cut_seconds", "first", "each", "queue", "wake"):
            getattr(self, name).add(getattr(other, name))
