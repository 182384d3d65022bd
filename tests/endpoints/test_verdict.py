"""Versions are compared exactly: a good one stays, a bad one goes, however small the sample."""

import random
from collections import Counter
from math import comb

import pytest

from controlplane.endpoints import verdict
from controlplane.endpoints.rollout_plan import RolloutPlan
from controlplane.endpoints.rollout_progress import RolloutReason
from controlplane.endpoints.verdict import Health, binomial, fisher, looks_due, worse
from gateway import trials

PLAN = RolloutPlan()


def test_fisher_is_exact() -> None:
    """Against the plain sum over hypergeometric chances, in whole numbers."""
    drawn = random.Random(4)
    for _ in range(300):
        of, other_of = drawn.randint(1, 30), drawn.randint(1, 30)
        hits, other = drawn.randint(0, of), drawn.randint(0, other_of)
        ways = sum(
            comb(of, k) * comb(other_of, hits + other - k)
            for k in range(hits, min(of, hits + other) + 1)
            if hits + other - k <= other_of
        )
        wanted = ways / comb(of + other_of, hits + other)
        assert fisher(hits, of, other, other_of) == pytest.approx(wanted, rel=1e-9)
    assert fisher(0, 1_000_000, 5, 1_000_000) == pytest.approx(1.0, abs=1e-6)
    assert fisher(3000, 100_000, 1000, 900_000) < 1e-300 ** (1 / 2)


def test_binomial_is_exact() -> None:
    for hits in range(11):
        wanted = sum(comb(10, k) * 0.05**k * 0.95 ** (10 - k) for k in range(hits, 11))
        assert binomial(hits, 10, 0.05) == pytest.approx(wanted, rel=1e-9)
    assert binomial(3, 10, 1.0) == 1.0


def test_a_look_is_made_each_time_the_sample_has_doubled() -> None:
    assert [looks_due(n) for n in (0, 4, 5, 9, 10, 19, 20, 5 * 2**9)] == [0, 0, 1, 1, 2, 2, 3, 10]


def test_buckets_mean_the_same_on_both_sides() -> None:
    assert verdict.PER_DOUBLING == trials._PER_DOUBLING
    for seconds in (0.001, 0.0123, 0.5, 42.0):
        back = verdict.quantile_s({trials.bucket(seconds): 1})
        assert back == pytest.approx(seconds, rel=0.05)
    assert trials.bucket(0.0) == 0


class Play:
    """Two versions under the same traffic, looked at as rollouts.py does."""

    def __init__(self, seed: int, share: float = 0.1) -> None:
        self.drawn, self.share = random.Random(seed), share
        self.counts = {True: [0, 0], False: [0, 0]}
        self.times: dict[bool, Counter[int]] = {True: Counter(), False: Counter()}

    def until(
        self, requests: int, errors: tuple[float, float], slower: float, plan: RolloutPlan = PLAN
    ) -> tuple[int, RolloutReason] | None:
        """(requests of the new version, why) when it is taken back; None: never."""
        looks = 0
        for _ in range(requests):
            new = self.drawn.random() < self.share
            count = self.counts[new]
            count[0] += 1
            if self.drawn.random() < errors[new]:
                count[1] += 1
            else:
                seconds = self.drawn.lognormvariate(0, 0.8) * (slower if new else 1.0)
                self.times[new][trials.bucket(seconds)] += 1
            if (due := looks_due(self.counts[True][0])) > looks:
                looks = due
                found = worse(self.health(new=True), self.health(new=False), plan, looks)
                if found is not None:
                    return self.counts[True][0], found.reason
        return None

    def health(self, *, new: bool) -> Health:
        requests, errors = self.counts[new]
        return Health(requests, errors, {}, self.times[new])


def test_a_version_that_is_as_good_stays() -> None:
    """The risk is 1 % in all; 300 rollouts of 4,000 requests with 2 % of errors, one look each
    time the sample has doubled. By chance three are taken back, and eight hardly ever (0.4 %)."""
    taken_back = sum(Play(seed).until(4000, (0.02, 0.02), 1.0) is not None for seed in range(300))
    assert taken_back <= 8


def test_latency_that_is_allowed_stays() -> None:
    plan = RolloutPlan(max_latency_ratio=2.0)
    assert sum(Play(n).until(4000, (0, 0), 1.9, plan) is not None for n in range(60)) <= 3


@pytest.mark.parametrize(
    ("errors", "slower", "reason", "within"),
    [
        ((0.0, 1.0), 1.0, RolloutReason.ERROR_RATE, 5),
        ((0.01, 0.3), 1.0, RolloutReason.ERROR_RATE, 80),
        ((0.0, 0.0), 10.0, RolloutReason.LATENCY, 40),
        ((0.0, 0.0), 3.0, RolloutReason.LATENCY, 320),
    ],
)
def test_one_that_is_worse_goes(
    errors: tuple[float, float], slower: float, reason: RolloutReason, within: int
) -> None:
    """With few requests of it, in nine of ten rollouts at least."""
    found = [Play(seed).until(20_000, errors, slower) for seed in range(30)]
    soon = [one for one in found if one is not None and one[0] <= within and one[1] is reason]
    assert len(soon) >= 27, found


def test_what_nobody_wants_to_be_judged_is_not() -> None:
    plan = RolloutPlan(max_error_increase=None, max_latency_ratio=None)
    assert Play(1).until(2000, (0.0, 1.0), 1.0, plan) is None
    tolerant = RolloutPlan(max_error_increase=50)
    assert Play(1).until(4000, (0.0, 0.3), 1.0, tolerant) is None


def test_without_anything_to_compare_with_many_failures_are_too_many() -> None:
    assert worse(Health(10, 10), Health(), PLAN, 2) is not None
    assert worse(Health(10, 1), Health(), PLAN, 2) is None
    assert worse(Health(10, 10), Health(19, 19), PLAN, 2) is None
