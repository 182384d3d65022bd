"""Quotes: the cheapest that will do, exact money, and a reason for everything else."""

from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from fractions import Fraction
from typing import Any

import pytest

from billing.rating import PriceVersion, rounded
from controlplane.placement import costs, quote_bodies, quotes
from controlplane.placement.devices import known
from controlplane.placement.memory import learning
from controlplane.placement.memory.engine import Arguments
from controlplane.placement.memory.estimates import Estimate
from controlplane.placement.memory.predict import Question
from controlplane.placement.models import reading
from controlplane.placement.offers import Ask, Offer, Quote, Slo
from controlplane.placement.refusals import Refusal
from controlplane.placement.speed.corrections import Canary, Correction, Key, likeness
from controlplane.placement.speed.engines import Learned
from controlplane.placement.speed.load import Job, Load, Shape
from controlplane.placement.speed.starts import Tier
from tests.benchmarks.speed.measured import configuration

PRICES = {"h100": "3.20", "h200": "3.80", "l40s": "1.40", "l4": "0.40", "a100-80": "1.60"}
CHAT = Shape(1000, 250)
LIKE = likeness(reading.read(configuration("Qwen3-14B")))


def offers(**changed: str) -> list[Offer]:
    said = PRICES | {name.replace("_", "-"): amount for name, amount in changed.items()}
    return [
        Offer(
            known()[name],
            PriceVersion(
                "p", "device_seconds", Decimal(amount), datetime(2026, 1, 1, tzinfo=UTC), name
            ),
        )
        for name, amount in said.items()
    ]


def ask(name: str, demand: Load | Job, **changed: Any) -> Ask:
    model = reading.read(configuration(name))
    question = Question(
        model=model,
        device=known()["h100"],
        arguments=Arguments(),
        engine_version="0.26.0",
        backend=model.quantization.scheme,
        starts=learning.published(),
    )
    return replace(Ask(question, name, demand, offers()), **changed)


@pytest.fixture(scope="module")
def chat() -> Quote:
    slo = Slo(ttft_s=1.0, tpot_s=0.05)
    return quotes.quote(ask("Llama-3.1-8B-Instruct", Load(5, CHAT), slo=slo))


def test_the_ranked_keep_the_slo_and_the_cheapest_is_first(chat: Quote) -> None:
    assert len(chat.ranked) >= 3
    costs = [each.money.hour for each in chat.ranked]
    assert costs == sorted(costs, key=lambda cost: cost or 0)
    for each in chat.ranked:
        assert each.forecast is not None
        assert each.forecast.ttft_s.p50 <= each.forecast.ttft_s.p95 <= 1.0
        assert each.forecast.tpot_s.p50 <= each.forecast.tpot_s.p95 <= 0.05
        assert each.forecast.busy < 1


def test_every_other_way_has_its_reason(chat: Quote) -> None:
    ranked = {(each.device, each.tensor_parallel_size) for each in chat.ranked[1:]}
    lost = {(each.device, each.split.ranks) for each in chat.lost}
    assert ranked <= lost
    first = chat.ranked[0]
    ways = {(name, ranks) for name in PRICES for ranks in (1, 2, 4, 8)}
    assert lost | {(first.device, first.tensor_parallel_size)} == ways
    assert all(each.reason for each in chat.lost)
    assert any("a token takes" in each.reason for each in chat.lost if each.device == "l4")


def test_money_is_exact(chat: Quote) -> None:
    for each in chat.ranked:
        hour = each.devices * Fraction(PRICES[each.device])
        assert each.money.hour is not None and Fraction(each.money.hour) == hour
        assert each.money.million_tokens == rounded(hour * 10**6 / (5 * 1250 * 3600), 4)
        assert each.money.million_output_tokens == rounded(hour * 10**6 / (5 * 250 * 3600), 4)


def test_starts_take_longer_the_less_is_there(chat: Quote) -> None:
    for each in chat.ranked:
        spans = [each.starts[tier] for tier in (Tier.WAKE, Tier.STANDBY, Tier.WARM, Tier.COLD)]
        assert [span.p50 for span in spans] == sorted(span.p50 for span in spans)
        assert all(span.p50 < span.p95 for span in spans)


def test_the_same_question_has_the_same_answer(chat: Quote) -> None:
    slo = Slo(ttft_s=1.0, tpot_s=0.05)
    assert quotes.quote(ask("Llama-3.1-8B-Instruct", Load(5, CHAT), slo=slo)) == chat


def test_more_load_takes_more_devices_and_never_costs_less() -> None:
    only = [offer for offer in offers() if offer.device.name == "h100"]
    costs = []
    for rate in (1, 10, 40, 160):
        found = quotes.quote(ask("Qwen3-14B", Load(rate, CHAT), slo=Slo(2.0, 0.05), offers=only))
        assert found.best is not None and found.best.money.hour is not None
        costs.append(found.best.money.hour)
    assert costs == sorted(costs) and costs[-1] > 2 * costs[0]


def test_a_price_decides() -> None:
    cheap = quotes.quote(ask("Qwen3-14B", Load(5, CHAT), offers=offers(h200="0.50")))
    assert cheap.best is not None and cheap.best.device == "h200"


def test_without_prices_the_fewest_devices_come_first() -> None:
    free = [replace(each, price=None) for each in offers()]
    found = quotes.quote(ask("Qwen3-14B", Load(5, CHAT), slo=Slo(tpot_s=0.1), offers=free))
    assert found.best is not None and found.best.money.hour is None
    counts = [each.devices for each in found.ranked]
    assert counts == sorted(counts)


def test_what_has_no_price_comes_after_what_has_one() -> None:
    mixed = [
        replace(each, price=None) if each.device.name == "h200" else each
        for each in offers()
        if each.device.name in ("h100", "h200")
    ]
    found = quotes.quote(ask("Qwen3-14B", Load(5, CHAT), offers=mixed))
    known_prices = [each.money.hour is not None for each in found.ranked]
    assert known_prices == sorted(known_prices, reverse=True) and not all(known_prices)
    assert any(each.reason == "nothing is known of its price" for each in found.lost)


def test_starts_that_were_measured_come_before_those_that_are_computed() -> None:
    only = [each for each in offers() if each.device.name == "h100"]
    seen = {"h100": {Tier.STANDBY: Estimate(9.0, 11.0)}}
    learned = Learned({}, starts=seen)
    found = quotes.quote(ask("Qwen3-14B", Load(5, CHAT), offers=only, learned=learned))
    assert found.best is not None
    assert found.best.starts[Tier.STANDBY] == Estimate(9.0, 11.0)
    assert found.best.starts[Tier.WARM].p50 > 9


def test_a_bound_that_nothing_keeps_is_said_with_the_figures() -> None:
    found = quotes.quote(ask("Qwen3-32B", Load(1, CHAT), slo=Slo(tpot_s=0.0005)))
    assert found.best is None
    assert any(
        "even of one request, 0 ms" in each.reason or "ms" in each.reason for each in found.lost
    )
    first = quotes.quote(ask("Qwen3-14B", Load(1, CHAT), slo=Slo(ttft_s=0.002)))
    assert first.best is None
    assert any(each.reason.startswith("the first token takes") for each in first.lost)


def test_what_does_not_fit_says_how_much_is_missing() -> None:
    found = quotes.quote(ask("Qwen3-32B", Load(0.5, CHAT)))
    small = [each for each in found.lost if (each.device, each.split.ranks) == ("l4", 1)]
    assert small[0].reason == "it does not fit: its weights are 61 GiB, the memory 22"
    large = [each for each in found.lost if (each.device, each.split.ranks) == ("l4", 2)]
    assert large[0].reason.startswith("it does not fit")
    tight = replace(ask("Qwen3-32B", Load(0.5, CHAT)), offers=[Offer(known()["h100"], None)])
    long = replace(tight.question, arguments=Arguments(max_model_len=40_960))
    said = quotes.quote(replace(tight, question=long)).lost
    assert any("GiB are missing on each device for one request" in each.reason for each in said)


def test_several_nodes_only_where_one_is_too_small() -> None:
    one = [replace(each, most=1) for each in offers() if each.device.name == "h100"]
    found = quotes.quote(ask("Llama-3.1-70B-Instruct", Load(0.2, CHAT), offers=one))
    assert found.best is not None
    assert (found.best.tensor_parallel_size, found.best.pipeline_parallel_size) == (1, 2)
    node = [replace(each, most=8) for each in one]
    whole = quotes.quote(ask("Llama-3.1-70B-Instruct", Load(0.2, CHAT), offers=node))
    assert whole.best is not None and whole.best.pipeline_parallel_size == 1


def test_a_latent_cache_is_served_by_shares_that_have_the_experts_in_common() -> None:
    """Each rank would hold the whole cache: eight shares hold eight times as much."""
    long = Load(4, Shape(16_000, 6_000))
    only = [each for each in offers() if each.device.name == "h200"]
    found = quotes.quote(ask("DeepSeek-R1", long, offers=only))
    assert found.best is not None
    assert found.best.data_parallel_size > 1
    whole = [each for each in found.ranked if each.tensor_parallel_size == 8]
    assert whole and whole[0].replicas > found.best.replicas
    assert found.best.devices == found.best.replicas * 8
    dense = quotes.quote(ask("Qwen3-32B", Load(5, CHAT)))
    assert {each.split.shares for each in dense.lost} <= {0, 1}


def test_a_quantisation_is_used_only_where_it_is_allowed() -> None:
    load = Load(5, CHAT)
    plain = quotes.quote(ask("Qwen3-32B", load))
    assert {each.quantization for each in plain.ranked} == {""}
    allowed = quotes.quote(ask("Qwen3-32B", load, quantizations=("", "fp8")))
    assert plain.best is not None and allowed.best is not None
    assert allowed.best.quantization == "fp8"
    assert (allowed.best.money.hour or 0) <= (plain.best.money.hour or 0)


def test_more_devices_than_are_free_are_not_quoted() -> None:
    none = [replace(each, free=1) for each in offers() if each.device.name == "l40s"]
    found = quotes.quote(ask("Qwen3-32B", Load(1, CHAT), offers=none))
    assert found.best is None
    assert any(each.reason.endswith("1 are free") for each in found.lost)
    apart = [replace(each, free=4, nodes=(1, 1, 1, 1)) for each in none]
    found = quotes.quote(ask("Qwen3-32B", Load(1, CHAT), offers=apart))
    assert all(each.split.node_devices == 1 for each in found.ranked)
    assert any(each.reason.endswith("there is room for 0") for each in found.lost)


def test_a_device_of_unknown_speed_is_named() -> None:
    found = quotes.quote(ask("Qwen3-14B", Load(1, CHAT), offers=[Offer(known()["gb10"], None)]))
    assert [each.reason for each in found.lost] == ["its speed is not known from two sources"]


def test_requests_longer_than_the_model_allows_are_refused() -> None:
    with pytest.raises(Refusal, match="40,960"):
        quotes.quote(ask("Qwen3-14B", Load(1, Shape(50_000, 100))))


def test_what_was_measured_changes_the_quote() -> None:
    only = [each for each in offers() if each.device.name == "h100"]
    before = quotes.quote(ask("Qwen3-14B", Load(1, CHAT), offers=only)).ranked
    twice = Correction(count=10, mean=0.6931, variance=0.0)
    seen = {Key(LIKE, "h100", ranks, "none"): twice for ranks in (1, 2, 4, 8)}
    learned = Learned(seen)
    after = quotes.quote(ask("Qwen3-14B", Load(1, CHAT), offers=only, learned=learned)).ranked
    assert before[0].forecast is not None and after[0].forecast is not None
    ratio = after[0].forecast.tpot_s.p50 / before[0].forecast.tpot_s.p50
    assert ratio == pytest.approx(2.0, rel=0.15)


def test_late_first_tokens_are_learned_apart_from_steps() -> None:
    only = [each for each in offers() if each.device.name == "h100"]
    before = quotes.quote(ask("Qwen3-14B", Load(1, CHAT), offers=only)).ranked
    late = {Key(LIKE, "h100", ranks, "none"): Correction(10, 1.0986, 0.0) for ranks in (1, 2, 4, 8)}
    learned = Learned({}, first_tokens=late)
    after = quotes.quote(ask("Qwen3-14B", Load(1, CHAT), offers=only, learned=learned)).ranked
    first, then = before[0].forecast, after[0].forecast
    assert first is not None and then is not None and then.tpot_s == first.tpot_s
    assert then.ttft_s.p50 / first.ttft_s.p50 == pytest.approx(3.0, rel=0.001)
    assert 0 < then.e2e_s.p50 - first.e2e_s.p50 < 3 * then.ttft_s.p50
    slo = Slo(ttft_s=2 * first.ttft_s.p95)
    kept = quotes.quote(ask("Qwen3-14B", Load(1, CHAT), offers=only, learned=learned, slo=slo))
    assert kept.best is not None and kept.best.devices > before[0].devices
    assert kept.best.forecast is not None
    assert kept.best.forecast.ttft_s.p95 <= 2 * first.ttft_s.p95


class TestJobs:
    JOB = Job(20_000, Shape(1500, 300))

    def test_a_job_costs_what_its_time_costs(self) -> None:
        found = quotes.quote(ask("Llama-3.1-8B-Instruct", self.JOB))
        assert len(found.ranked) >= 2
        for each in found.ranked:
            assert each.runtime is not None and each.money.job is not None
            hour = each.devices * Fraction(PRICES[each.device])
            exact = hour * Fraction(Decimal(str(each.runtime.seconds.p50))) / 3600
            assert each.money.job == rounded(exact, 2)
            assert each.money.job_p95 is not None and each.money.job <= each.money.job_p95
        assert found.ranked[0].money.job == min(each.money.job or 0 for each in found.ranked)

    def test_a_deadline_takes_more_replicas_and_is_kept(self) -> None:
        slow = quotes.quote(ask("Llama-3.1-8B-Instruct", self.JOB)).best
        soon = replace(self.JOB, deadline_s=300.0)
        fast = quotes.quote(ask("Llama-3.1-8B-Instruct", soon)).best
        assert slow is not None and fast is not None
        assert fast.runtime is not None and slow.runtime is not None
        assert fast.runtime.seconds.p95 <= 300 < slow.runtime.seconds.p50
        assert fast.devices > slow.devices

    def test_twice_the_requests_take_about_twice_as_long(self) -> None:
        only = [each for each in offers() if each.device.name == "h100"]
        one = quotes.quote(ask("Qwen3-14B", self.JOB, offers=only)).best
        two = replace(self.JOB, requests=40_000)
        other = quotes.quote(ask("Qwen3-14B", two, offers=only)).best
        assert one is not None and other is not None
        assert one.runtime is not None and other.runtime is not None
        assert other.runtime.seconds.p50 / one.runtime.seconds.p50 == pytest.approx(2, rel=0.1)

    def test_a_canary_corrects_a_job_that_is_slower_than_predicted(self) -> None:
        """The device is half as fast as said: the corrected time is near the true one."""
        only = [each for each in offers() if each.device.name == "h100"]
        slower = {
            Key(LIKE, "h100", ranks, "none"): Correction(10, 0.6931, 0.0) for ranks in (1, 2, 4, 8)
        }
        said = quotes.quote(ask("Qwen3-14B", self.JOB, offers=only)).ranked
        true = quotes.quote(ask("Qwen3-14B", self.JOB, offers=only, learned=Learned(slower))).ranked
        first = said[0]
        real = next(
            each for each in true if each.tensor_parallel_size == first.tensor_parallel_size
        )
        assert first.runtime is not None and real.runtime is not None
        canary = Canary(60.0, real.runtime.canary_tokens, first.runtime.canary_tokens, 200)
        seconds, cost, corrected = costs.after_canary(first, self.JOB, canary)
        assert corrected.move and corrected.slower == pytest.approx(2.0, rel=0.1)
        assert seconds.p50 == pytest.approx(real.runtime.seconds.p50, rel=0.1)
        assert abs(first.runtime.seconds.p50 - real.runtime.seconds.p50) > 3 * abs(
            seconds.p50 - real.runtime.seconds.p50
        )
        assert cost is not None and first.money.job is not None and cost > first.money.job


class TestBodies:
    def test_a_body_says_what_is_asked(self) -> None:
        body = {
            "load": {"requests_per_second": 5, "prompt_tokens": 1000, "output_tokens": 250},
            "slo": {"ttft_p95_s": 1.0},
        }
        assert quote_bodies.demand(body) == Load(5, Shape(1000, 250))
        assert quote_bodies.slo(body) == Slo(1.0, None)
        job = {"requests": 10, "prompt_tokens": 5, "output_tokens": 5, "deadline_s": 60}
        assert quote_bodies.demand({"job": job}) == Job(10, Shape(5, 5), 60)

    @pytest.mark.parametrize(
        ("body", "field"),
        [
            ({}, "load"),
            ({"load": {}, "job": {}}, "load"),
            ({"load": []}, "load"),
            ({"load": {"rate": 1}}, "load.rate"),
            ({"load": {"requests_per_second": "5"}}, "load.prompt_tokens"),
            (
                {"load": {"requests_per_second": 0, "prompt_tokens": 1, "output_tokens": 1}},
                "load",
            ),
            ({"job": {"requests": 1.5, "prompt_tokens": 1, "output_tokens": 1}}, "job.requests"),
            ({"job": {"requests": True, "prompt_tokens": 1, "output_tokens": 1}}, "job.requests"),
        ],
    )
    def test_what_is_wrong_is_named(self, body: dict[str, Any], field: str) -> None:
        with pytest.raises(quote_bodies.BadBody) as bad:
            quote_bodies.demand(body)
        assert bad.value.field == field and bad.value.message

    def test_a_bound_that_cannot_be_is_named(self) -> None:
        for wrong in ({"ttft_p95_s": 0}, {"ttft_p95_s": "1"}, {"ttft": 1}):
            with pytest.raises(quote_bodies.BadBody):
                quote_bodies.slo({"slo": wrong})

    def test_an_answer_has_every_figure(self, chat: Quote) -> None:
        told = quote_bodies.answer(chat)
        first = told["candidates"][0]
        assert first["price"]["hour"] == f"{chat.ranked[0].money.hour:f}"
        assert set(first["ttft_s"]) == {"p50", "p95"}
        assert set(first["starts_s"]) == {"wake", "standby", "warm", "cold"}
        assert all(each["reason"] for each in told["rejected"])
