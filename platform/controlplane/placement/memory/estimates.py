"""A quantity that is not known exactly."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Estimate:
    """In the unit of what it measures. Of a need p95 >= p50, of a capacity p95 <= p50."""

    p50: float
    p95: float

    @classmethod
    def exact(cls, value: float) -> "Estimate":
        return cls(value, value)

    def __add__(self, other: "Estimate") -> "Estimate":
        """Of independent errors: their spreads add as squares."""
        spread = ((self.p95 - self.p50) ** 2 + (other.p95 - other.p50) ** 2) ** 0.5
        return Estimate(self.p50 + other.p50, self.p50 + other.p50 + spread)
