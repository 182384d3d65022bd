"""What arrives at an endpoint, and what waits as a batch job."""

import math
import random
from collections.abc import Iterator
from dataclasses import dataclass

# Standard deviation over mean of the lengths of a public trace of conversations (Azure LLM 2023:
# 0.96 of 1,155 prompt tokens, 0.77 of 211 generated).
SPREAD = 0.85


@dataclass(frozen=True)
class Request:
    at_s: float
    prompt: int  # tokens that are computed
    cached: int  # tokens before them that are in the cache already
    output: int

    @property
    def tokens(self) -> int:
        return self.cached + self.prompt + self.output


@dataclass(frozen=True)
class Shape:
    """Mean tokens of a prompt and of an answer; `cached` is the share of prompts found in the
    prefix cache; `spread` the deviation of lengths over their mean, 0: all alike."""

    prompt: float
    output: float
    cached: float = 0.0
    spread: float = SPREAD

    def __post_init__(self) -> None:
        if not (self.prompt >= 1 and self.output >= 1):
            raise ValueError("prompt and output are 1 token or more")
        if not 0 <= self.cached < 1:
            raise ValueError("cached is a share from 0 up to, but not, 1")
        if not 0 <= self.spread <= 5:
            raise ValueError("spread is between 0 and 5")

    def draw(self, chance: random.Random, at_s: float, longest: int) -> Request:
        """One request of at most `longest` tokens."""
        prompt = max(1, min(self._length(chance, self.prompt), longest - 1))
        cached = int(prompt * self.cached)
        output = max(1, min(self._length(chance, self.output), longest - prompt))
        return Request(at_s, prompt - cached, cached, output)

    def _length(self, chance: random.Random, mean: float) -> int:
        if not self.spread:
            return round(mean)
        variance = math.log(1 + self.spread**2)
        return round(chance.lognormvariate(math.log(mean) - variance / 2, math.sqrt(variance)))


@dataclass(frozen=True)
class Load:
    """Requests a second, as they come in the busy hour, with nothing that evens them out."""

    rate: float
    shape: Shape

    def __post_init__(self) -> None:
        if not (math.isfinite(self.rate) and self.rate > 0):
            raise ValueError("rate is more than 0 requests a second")

    def arrivals(self, rate: float, count: int, longest: int, seed: int) -> Iterator[Request]:
        """`count` requests at `rate`, the part of this load that one lane gets."""
        chance = random.Random(seed)
        now = 0.0
        for _ in range(count):
            now += chance.expovariate(rate)
            yield self.shape.draw(chance, now, longest)


@dataclass(frozen=True)
class Job:
    """So many requests, all there from the start; `deadline_s` is when they must be done."""

    requests: int
    shape: Shape
    deadline_s: float | None = None

    def __post_init__(self) -> None:
        if self.requests < 1:
            raise ValueError("a job has 1 request or more")
        if self.deadline_s is not None and not self.deadline_s > 0:
            raise ValueError("deadline_s is more than 0")

    def waiting(self, count: int, longest: int, seed: int) -> list[Request]:
        """`count` of its requests, all there at once."""
        chance = random.Random(seed)
        return [self.shape.draw(chance, 0.0, longest) for _ in range(count)]

    @property
    def tokens(self) -> float:
        """Of all its prompts and answers, in the mean."""
        return self.requests * (self.shape.prompt + self.shape.output)
