"""What was measured corrects what is predicted: of a device, a model on it, and a running job."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from controlplane.placement.memory.estimates import Estimate
from controlplane.placement.models import tensors
from controlplane.placement.models.model import Model

FULL = 10  # measurements after which the formula counts no more
RECENT = 0.3  # weight of the newest in a moving mean
FLOOR = 0.08  # margin that no number of measurements undercuts
WIDEST, NARROWEST = 4.0, 0.25  # a ratio beyond these is another thing than a slow engine
MOVE = 0.25  # off by more: better be elsewhere


@dataclass(frozen=True)
class Key:
    model: str  # as `likeness` has it: no name
    device: str
    ranks: int
    quantization: str


def likeness(model: Model) -> str:
    """What models that are equally fast have in common: their architecture and their size."""
    parameters = sum(each.parameters for each in tensors.of(model))
    return f"{model.architecture} {parameters / 1e9:.2g}B {len(model.layers)} layers"


@dataclass(frozen=True)
class Correction:
    """A moving mean of log(measured / predicted) seconds, and of its square about the mean."""

    count: int = 0
    mean: float = 0.0
    variance: float = 0.0

    def seen(self, measured_s: float, predicted_s: float) -> "Correction":
        """With one more measurement. Raises ValueError for what is no duration."""
        if not (measured_s > 0 and predicted_s > 0):
            raise ValueError("durations above 0")
        ratio = min(max(measured_s / predicted_s, NARROWEST), WIDEST)
        new = math.log(ratio)
        weight = max(RECENT, 1 / (self.count + 1))
        off = new - self.mean
        return Correction(
            self.count + 1,
            self.mean + weight * off,
            (1 - weight) * (self.variance + weight * off * off),
        )

    @property
    def factor(self) -> float:
        """By which predicted seconds are multiplied: halfway after one, all the way after ten."""
        if not self.count:
            return 1.0
        trust = min(1.0, 0.5 + 0.5 * (self.count - 1) / (FULL - 1))
        return math.exp(trust * self.mean)

    def margin(self, cold: float) -> float:
        """Of the p95 over the p50; `cold`: of the formula alone."""
        if not self.count:
            return cold
        own = math.exp(1.645 * math.sqrt(self.variance)) - 1
        trust = min(1.0, self.count / FULL)
        return max(FLOOR, trust * own + (1 - trust) * cold)


def learn(pairs: Iterable[tuple[float, float]]) -> Correction:
    """Of (measured, predicted) seconds, oldest first."""
    found = Correction()
    for measured, predicted in pairs:
        found = found.seen(measured, predicted)
    return found


@dataclass(frozen=True)
class Canary:
    """The first `seconds` of a job as they were: tokens read and written in them, and tokens that
    the prediction had for the same seconds."""

    seconds: float
    measured_tokens: float
    predicted_tokens: float
    requests: int  # that ended in it


@dataclass(frozen=True)
class Corrected:
    """`slower`: by which what is left takes longer than predicted; `margin` of its p95."""

    slower: float
    margin: float
    move: bool  # so far off that another device may be the better


LEAST_REQUESTS = 20  # that a canary of 60 s is trusted for in full


def by_canary(canary: Canary, margin: float) -> Corrected:
    """What a canary says of the rest of its job; `margin` is what the prediction had.

    Few requests say little: they are drawn to the prediction. Raises ValueError where it has none.
    """
    if canary.seconds <= 0 or canary.predicted_tokens <= 0:
        raise ValueError("a canary of more than 0 seconds and predicted tokens")
    if canary.measured_tokens <= 0:
        return Corrected(WIDEST, WIDEST, True)
    trust = min(1.0, canary.requests / LEAST_REQUESTS)
    measured = math.log(canary.predicted_tokens / canary.measured_tokens)
    slower = min(max(math.exp(trust * measured), NARROWEST), WIDEST)
    left = max(FLOOR, margin * (1 - trust) + trust * margin / 3)
    return Corrected(slower, left, abs(slower - 1) > MOVE)


@dataclass(frozen=True)
class Compared:
    """One figure of a quote beside what happened; `off`: measured over predicted, less one."""

    figure: str
    predicted: float
    predicted_p95: float
    measured: float

    @property
    def off(self) -> float:
        return self.measured / self.predicted - 1 if self.predicted > 0 else 0.0

    @property
    def kept(self) -> bool:
        """Whether it stayed within what was said at p95."""
        return self.measured <= self.predicted_p95


def beside(
    predicted: Mapping[str, Estimate], measured: Mapping[str, float]
) -> tuple[Compared, ...]:
    """A quote's figures beside those of its day, by name; what one of them lacks is left out."""
    return tuple(
        Compared(name, each.p50, each.p95, measured[name])
        for name, each in predicted.items()
        if name in measured
    )
