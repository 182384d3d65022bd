"""What a quote costs: exact, each amount rounded once at the most, half up."""

from decimal import Decimal
from fractions import Fraction

from billing.rating import PriceVersion, rounded
from controlplane.placement.memory.estimates import Estimate
from controlplane.placement.offers import Candidate, Money
from controlplane.placement.speed import forecasts
from controlplane.placement.speed.corrections import Canary, Corrected
from controlplane.placement.speed.forecasts import Runtime
from controlplane.placement.speed.load import Job, Load

TOKEN_PLACES = 4
HOUR_S, MILLION = 3600, 1_000_000


def of(
    price: PriceVersion | None, devices: int, demand: Load | Job, runtime: Runtime | None
) -> Money:
    """Of so many devices for a load, or for a job that takes so long."""
    if price is None:
        return Money("EUR", None, None, None)
    hour = devices * Fraction(price.amount)
    paid = devices * price.amount  # exact: a whole number times what was written
    exact = _exact(demand.shape.prompt) + _exact(demand.shape.output)
    output = _exact(demand.shape.output)
    if isinstance(demand, Load):
        requests = _exact(demand.rate) * HOUR_S
        return Money(
            price.currency,
            paid,
            rounded(hour * MILLION / (requests * exact), TOKEN_PLACES),
            rounded(hour * MILLION / (requests * output), TOKEN_PLACES),
        )
    if runtime is None:
        raise TypeError("a job has a runtime")
    job = hour * _exact(runtime.seconds.p50) / HOUR_S
    return Money(
        price.currency,
        paid,
        rounded(job * MILLION / (demand.requests * exact), TOKEN_PLACES),
        rounded(job * MILLION / (demand.requests * output), TOKEN_PLACES),
        rounded(job, 2),
        rounded(hour * _exact(runtime.seconds.p95) / HOUR_S, 2),
    )


def of_seconds(price: PriceVersion, devices: int | Fraction, seconds: float) -> Decimal:
    """Of so many devices, or a part of one, for so long."""
    return rounded(devices * Fraction(price.amount) * _exact(seconds) / HOUR_S, TOKEN_PLACES)


def of_tokens(prompt: PriceVersion, output: PriceVersion, tokens: tuple[float, float]) -> Decimal:
    """Of what is read and written, where tokens are paid for."""
    read, written = map(_exact, tokens)
    exact = read * Fraction(prompt.amount) + written * Fraction(output.amount)
    return rounded(exact / MILLION, TOKEN_PLACES)


def _exact(value: float) -> Fraction:
    """As it was written: 0.1 is a tenth."""
    return Fraction(Decimal(str(value)))


def after_canary(
    candidate: Candidate, job: Job, canary: Canary
) -> tuple[Estimate, Decimal | None, Corrected]:
    """A running job's seconds and its cost (p50), corrected by its first minute."""
    if candidate.runtime is None:
        raise TypeError("a candidate for a job")
    seconds, corrected = forecasts.after_canary(candidate.runtime, job.tokens, canary)
    if candidate.money.hour is None:
        return seconds, None, corrected
    hour = Fraction(candidate.money.hour)
    return seconds, rounded(hour * _exact(seconds.p50) / HOUR_S, 2), corrected
