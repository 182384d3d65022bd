"""Does a new version serve worse than the one before, beyond chance? Pure.

Both are compared over the same time by exact tests of two-by-two tables (Fisher), which hold for
small samples. Errors: failed requests against the others. Latency: after the new version's times
are divided by the ratio that is allowed, those beyond the 95th percentile of both together (a
quantile test): if the new version were no slower than that, they would fall on either alike.

Who looks again and again finds something in the end. So the k-th look is made when the new
version has had 5·2^(k-1) requests, and may spend 1/(k(k+1)) of the risk: over a rollout of any
length a version that is as good is rolled back with a chance of RISK at most.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from math import exp, lgamma, log, log2, sqrt

from controlplane.endpoints.rollout_plan import RolloutPlan
from controlplane.endpoints.rollout_progress import RolloutReason, Worse

RISK = 0.01
FIRST_LOOK = 5  # requests
_TESTS = 3  # errors, first byte, whole answer
_QUANTILE = 0.95
# Without a version to compare with (it had fewer requests), more failures than this are too many.
_FEW = 20
_ASSUMED = 0.05
# Requests are counted by their seconds in buckets, this many for each doubling (gateway.buckets).
PER_DOUBLING = 8

Buckets = Mapping[int, int]  # bucket: count


@dataclass(frozen=True)
class Health:
    """What gateways saw of one version."""

    requests: int = 0
    errors: int = 0
    first: Buckets = field(default_factory=dict)
    total: Buckets = field(default_factory=dict)


def looks_due(requests: int) -> int:
    """How many looks so many requests of the new version are worth."""
    return 0 if requests < FIRST_LOOK else int(log2(requests / FIRST_LOOK)) + 1


def worse(new: Health, old: Health, plan: RolloutPlan, look: int) -> Worse | None:
    """What shows at the `look`-th look (from 1), if anything does."""
    alpha = RISK / _TESTS / (look * (look + 1))
    if plan.max_error_increase is not None:
        allowed = plan.max_error_increase / 100
        if (found := _errors(new, old, allowed, alpha)) is not None:
            return found
    if plan.max_latency_ratio is not None:
        for what, mine, others in (
            ("first byte", new.first, old.first),
            ("answer", new.total, old.total),
        ):
            found = _latency(what, mine, others, plan.max_latency_ratio, alpha)
            if found is not None:
                return found
    return None


def _errors(new: Health, old: Health, allowed: float, alpha: float) -> Worse | None:
    if not new.errors:
        return None
    rate = new.errors / new.requests
    if old.requests >= _FEW:
        before = old.errors / old.requests
        chance = fisher(new.errors, new.requests, old.errors, old.requests)
    else:
        before = max(_ASSUMED, old.errors / old.requests if old.requests else 0.0)
        chance = binomial(new.errors, new.requests, before)
    # More than is allowed, and not by chance either.
    chance = max(chance, binomial(new.errors, new.requests, before + allowed))
    if rate - before <= allowed or chance >= alpha:
        return None
    detail = f"{new.errors} of {new.requests} requests failed, before {old.errors} of "
    return Worse(RolloutReason.ERROR_RATE, f"{detail}{old.requests} (p = {chance:.1e})")


def _latency(what: str, new: Buckets, old: Buckets, ratio: float, alpha: float) -> Worse | None:
    shift = round(PER_DOUBLING * log2(ratio))
    scaled = {bucket - shift: count for bucket, count in new.items()}
    mine, others = sum(new.values()), sum(old.values())
    if not mine or not others:
        return None
    slow_new, slow_old = _beyond(scaled, old)
    chance = fisher(slow_new, mine, slow_old, others)
    if chance >= alpha:
        return None
    now_s, before_s = quantile_s(new), quantile_s(old)
    detail = f"p95 to the {what} is {now_s:.3g} s, before {before_s:.3g} s (p = {chance:.1e})"
    return Worse(RolloutReason.LATENCY, detail)


def _beyond(one: Buckets, other: Buckets) -> tuple[int, int]:
    """How many of each lie in the slowest buckets that together hold 5 % at least."""
    least = (1 - _QUANTILE) * (sum(one.values()) + sum(other.values()))
    mine = others = 0
    for bucket in sorted({*one, *other}, reverse=True):
        mine += one.get(bucket, 0)
        others += other.get(bucket, 0)
        if mine + others >= least:
            break
    return mine, others


def quantile_s(buckets: Buckets, share: float = _QUANTILE) -> float:
    """The geometric middle of the bucket in which the quantile lies; 0 of nothing."""
    left = share * sum(buckets.values())
    for bucket in sorted(buckets):
        left -= buckets[bucket]
        if left <= 0:
            return float(2 ** (bucket / PER_DOUBLING) / 1000 * sqrt(2 ** (1 / PER_DOUBLING)))
    return 0.0


def fisher(hits: int, of: int, other_hits: int, other_of: int) -> float:
    """The chance of `hits` or more of `of`, if both were alike (one-sided, exact)."""
    all_hits, everything = hits + other_hits, of + other_of
    most = min(all_hits, of)
    base = _choose(everything, all_hits)
    return _tail(
        _choose(of, k) + _choose(other_of, all_hits - k) - base
        for k in range(max(hits, all_hits - other_of), most + 1)
    )


def binomial(hits: int, of: int, rate: float) -> float:
    """The chance of `hits` or more of `of` at this rate."""
    if rate >= 1:
        return 1.0
    return _tail(
        _choose(of, k) + k * log(rate) + (of - k) * log(1 - rate) for k in range(hits, of + 1)
    )


def _choose(n: int, k: int) -> float:
    return lgamma(n + 1) - lgamma(k + 1) - lgamma(n - k + 1)


def _tail(logs: Iterable[float]) -> float:
    """Their sum, of which the terms far beyond the largest no longer count."""
    total = last = 0.0
    for one in logs:
        term = exp(min(one, 0.0))
        total += term
        if term < last and term < total * 1e-12:
            break
        last = term
    return min(1.0, total)
