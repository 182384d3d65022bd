"""How long a batch takes: said before, corrected by its first minute, measured at the end. On a
clock of the test's own."""

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest

from billing.models import Meter
from billing.pricing import prices
from compliance import audit
from controlplane.batches import finishing, forecasting, lines, services
from controlplane.batches.models import Batch, Forecast, Line, LineState, Status
from controlplane.endpoints import engine_speed
from controlplane.endpoints.models import Endpoint, ModelFacts, SpeedCorrection
from controlplane.placement.speed import simulation
from controlplane.placement.speed.load import Job, Shape
from tests.batches.test_lines import URL, Desk, desk
from tests.endpoints.test_preflight import EIGHT, EIGHT_BYTES, H200, gpus
from tests.endpoints.world import START, organization

__all__ = ["desk"]  # a fixture

pytestmark = pytest.mark.django_db

BODY = {"messages": [{"role": "user", "content": "x" * 1964}], "max_tokens": 250}  # 500 tokens


def submit(desk: Desk, many: int, *models: str, **body: Any) -> Batch:
    """Of so many requests for each of the models, read to the end and predicted."""
    asked = [
        {
            "custom_id": f"{model}-{n}",
            "method": "POST",
            "url": URL,
            "body": {"model": model, **body},
        }
        for n in range(many)
        for model in models
    ]
    batch = services.create(
        actor=audit.SYSTEM,
        key=desk.key,
        input_file_id=desk.file(b"\n".join(json.dumps(one).encode() for one in asked)).id,
        endpoint=URL,
        completion_window="24h",
        now=desk.now,
    )
    finishing.advance(desk.now)
    forecasting.tend(desk.now)
    batch.refresh_from_db()
    assert batch.status == Status.IN_PROGRESS
    return batch


def run(desk: Desk, rounds: int, took_s: float, tokens: tuple[int, int], at_once: int = 32) -> None:
    """So many times as many lines as run at once."""
    for _ in range(rounds):
        claimed = desk.claim(most=at_once)
        desk.later(took_s)
        for line in claimed:
            assert desk.settle(line, tokens=tokens)


def served(desk: Desk, batch: Batch, endpoint: Endpoint, slower: float) -> float:
    """All of it, by an engine that is so much slower than predicted; seconds."""
    shape = Shape(500, 250)
    engine = engine_speed.engine(endpoint, shape, 32, 1.0, desk.now).engine
    machine = replace(engine.machine, slower=engine.machine.slower * slower)
    asked = Job(batch.total, shape).waiting(batch.total, 8192, seed=11)
    rows = list(Line.objects.filter(batch=batch).order_by("number"))
    answers = simulation.run(machine, engine.limits, asked)
    for row, each in zip(rows, answers, strict=True):
        row.began_at = desk.now + timedelta(seconds=each.admitted_s)
        row.ended_at = desk.now + timedelta(seconds=each.last_s)
        row.prompt_tokens, row.output_tokens = each.prompt, each.output
        row.state = LineState.DONE
    fields = ["began_at", "ended_at", "prompt_tokens", "output_tokens", "state"]
    Line.objects.bulk_update(rows, fields)
    return max(each.last_s for each in answers)


def end(desk: Desk, batch: Batch) -> dict[str, Any]:
    finishing.advance(desk.now)
    batch.refresh_from_db()
    assert batch.status == Status.COMPLETED
    return said(batch, "actual")


def said(batch: Batch, part: str) -> dict[str, Any]:
    found: dict[str, Any] | None = getattr(Forecast.objects.get(batch=batch), part)
    assert found is not None
    return found


@pytest.fixture
def fast(desk: Desk) -> Endpoint:
    """On an H200 at 3.80 EUR an hour."""
    gpus(desk.world, H200)
    ModelFacts.objects.create(
        source="hub", model="org/model", config=EIGHT, tensors={"rest": EIGHT_BYTES}, seen_at=START
    )
    prices.publish(
        actor=audit.SYSTEM,
        meter=Meter.DEVICE_SECONDS,
        device_kind=H200,
        amount=Decimal("3.80"),
        valid_from=datetime(2026, 1, 1, tzinfo=UTC),
        now=desk.now,
    )
    return desk.world.endpoint(name="fast", device_kind=H200, min_replicas=0)


def test_on_a_cpu_the_first_minute_of_work_is_all_that_is_known(desk: Desk) -> None:
    batch = submit(desk, 400, "tiny", **BODY)
    (part,) = forecasting.shown([batch])[batch.id]["models"]  # type: ignore[index]
    assert part["predicted"] == {"missing": "there is no speed for cpu"}
    assert (part["requests"], part["canary"], part["actual"]) == (400, None, None)
    run(desk, 5, 10.0, (500, 250), at_once=4)
    desk.later(3600)  # others come first
    assert not forecasting.tend(desk.now) or Forecast.objects.get().canary is None
    run(desk, 4, 10.0, (500, 250), at_once=4)
    assert forecasting.tend(desk.now)
    assert not forecasting.tend(desk.later(600))  # once
    canary = said(batch, "canary")
    assert (canary["seconds"], canary["requests"]) == (60.0, 24)
    assert canary["slower"] is canary["move"] is canary["cost"] is None
    whole = forecasting.shown([batch])[batch.id]
    assert whole is not None and whole["runtime_s"] == canary["runtime_s"]
    assert canary["runtime_s"]["p50"] == pytest.approx(1000, rel=0.001)
    run(desk, 91, 10.0, (500, 250), at_once=4)
    found = end(desk, batch)
    assert found["runtime_s"] == pytest.approx(1000)
    assert (found["requests"], found["output_tokens"]) == (400, 100_000)
    assert canary["runtime_s"]["p50"] <= found["runtime_s"]
    assert found["runtime_s"] <= canary["runtime_s"]["p95"]


def test_what_was_cut_or_lost_is_no_work(desk: Desk) -> None:
    """Preempted lines, and those of a runner that was killed, come again; the minute is of those
    attempts that brought a result, and waits for those that are in it."""
    batch = submit(desk, 400, "tiny", **BODY)
    for _ in range(3):
        claimed = desk.claim(most=4)
        desk.later(5)
        for line in claimed:
            lines.put_back(line, "one", not_before=desk.now, fault=False, known=True)
    desk.claim("killed", most=4)
    lines.take_over(desk.later(31))
    run(desk, 5, 10.0, (500, 250), at_once=4)
    slow = desk.claim("slow", most=1)
    run(desk, 1, 10.0, (500, 250), at_once=3)
    assert forecasting.tend(desk.now)
    assert Forecast.objects.get().canary is None  # one that began within it still runs
    desk.later(30)
    assert desk.settle(slow[0], "slow", tokens=(500, 1000))
    assert forecasting.tend(desk.later(6))
    canary = said(batch, "canary")
    assert (canary["seconds"], canary["requests"]) == (60.0, 23)
    assert canary["output_tokens"] == 23 * 250 + 250  # a quarter of the slow one's
    assert Batch.objects.get(id=batch.id).status == Status.IN_PROGRESS


def test_a_device_half_as_fast_is_found_out_in_a_minute(desk: Desk, fast: Endpoint) -> None:
    batch = submit(desk, 1600, "fast", **BODY)
    predicted = said(batch, "predicted")
    assert predicted["prompt_tokens"] == pytest.approx(1600 * 500, rel=0.01)
    assert predicted["output_tokens"] == 1600 * 250
    span = predicted["runtime_s"]
    assert 5 < span["p50"] < span["p95"] < 600
    hours = Decimal(str(span["p50"])) / 3600
    assert Decimal(predicted["cost"]["p50"]) == pytest.approx(
        hours * Decimal("3.80"), abs=Decimal("0.0002")
    )
    took_s = served(desk, batch, fast, slower=2.0)
    assert forecasting.tend(desk.later(took_s))
    canary = said(batch, "canary")
    assert canary["slower"] == pytest.approx(2.0, rel=0.1) and canary["move"]
    assert canary["runtime_s"]["p50"] == pytest.approx(took_s, rel=0.1)
    (learned,) = SpeedCorrection.objects.all()
    assert learned.device == "h200"
    assert learned.ratio == pytest.approx(2.0, rel=0.1)
    assert (learned.organization, learned.shared) == (desk.world.project.organization, False)
    found = end(desk, batch)
    assert found["runtime_s"] == pytest.approx(took_s, rel=0.001)
    assert found["runtime_s"] <= canary["runtime_s"]["p95"]
    shown = forecasting.shown([batch])[batch.id]
    assert shown is not None and shown["move"]
    assert shown["cost"] == {k: v for k, v in canary["cost"].items() if k != "by"}


def test_shorter_answers_are_no_reason_to_move(desk: Desk, fast: Endpoint) -> None:
    batch = submit(desk, 3200, "fast", **{**BODY, "max_tokens": 500})
    took_s = served(desk, batch, fast, slower=1.0)  # 250 tokens each
    assert forecasting.tend(desk.later(took_s))
    canary = said(batch, "canary")
    assert not canary["move"]
    assert took_s < 0.6 * said(batch, "predicted")["runtime_s"]["p50"]
    assert canary["runtime_s"]["p50"] == pytest.approx(took_s, rel=0.1)


@pytest.mark.parametrize(
    ("body", "why"),
    [
        ({"messages": []}, "its requests have no max_tokens"),
        (
            {"messages": [{"content": [{"image_url": {"url": "data:"}}]}], "max_tokens": 5},
            "3 of its requests have pictures",
        ),
    ],
)
def test_what_cannot_be_predicted_is_said(
    desk: Desk, fast: Endpoint, body: dict[str, Any], why: str
) -> None:
    batch = submit(desk, 3, "fast", **body)
    whole = forecasting.shown([batch])[batch.id]
    assert whole is not None and whole["runtime_s"] is whole["cost"] is None
    assert why in whole["models"][0]["predicted"]["missing"]


def test_a_model_that_nobody_knows_is_named(desk: Desk, fast: Endpoint) -> None:
    ModelFacts.objects.all().delete()
    batch = submit(desk, 3, "fast", **BODY)
    missing = said(batch, "predicted")["missing"]
    assert missing == "it takes the config.json of org/model: no node has brought it yet"


def test_what_another_organization_shares_is_paid_by_its_tokens(desk: Desk, fast: Endpoint) -> None:
    prices.publish_defaults(actor=audit.SYSTEM, now=desk.now)
    Endpoint.objects.filter(id=fast.id).update(project=organization("other"), shared_at=desk.now)
    ModelFacts.objects.update(project=None)
    predicted = said(submit(desk, 1000, "fast", **BODY), "predicted")
    cost = Decimal(predicted["prompt_tokens"]) / 10**7 + Decimal("0.1")  # 250,000 at 0.40
    assert predicted["cost"]["by"] == "tokens"
    assert Decimal(predicted["cost"]["p50"]) == pytest.approx(cost, abs=Decimal("0.0001"))


def test_models_run_beside_each_other_and_nine_are_too_many(desk: Desk, fast: Endpoint) -> None:
    two = submit(desk, 50, "fast", fast.id, **BODY)
    whole = forecasting.shown([two])[two.id]
    assert whole is not None
    one, other = (part["predicted"] for part in whole["models"])
    assert whole["runtime_s"]["p50"] == max(one["runtime_s"]["p50"], other["runtime_s"]["p50"])
    total = Decimal(one["cost"]["p50"]) + Decimal(other["cost"]["p50"])
    assert Decimal(whole["cost"]["p50"]) == total
    names = [f"e{n}" for n in range(forecasting.MODELS + 1)]
    for name in names:
        desk.world.endpoint(name=name, model="org/other", min_replicas=0)
    many = submit(desk, 2, *names, **BODY)
    whole = forecasting.shown([many])[many.id]
    assert whole is not None and len(whole["models"]) == forecasting.MODELS
    assert whole["runtime_s"] is None


def test_several_runners_say_each_thing_once(desk: Desk) -> None:
    batch = submit(desk, 400, "tiny", **BODY)
    row = Forecast.objects.get(batch=batch)
    run(desk, 7, 10.0, (500, 250), at_once=4)
    other = Forecast.objects.get(id=row.id)
    assert forecasting._attempt(row, desk.now)
    first = Forecast.objects.get(id=row.id).canary
    run(desk, 7, 1.0, (500, 250), at_once=4)
    assert not forecasting._attempt(other, desk.now)  # it had looked before the other wrote
    assert Forecast.objects.get(id=row.id).canary == first


def test_one_that_fails_does_not_come_back(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object) -> object:
        raise ValueError("a bug")

    monkeypatch.setattr(forecasting, "_asked", fails)
    batch = submit(desk, 3, "tiny", **BODY)
    row = Forecast.objects.get(batch=batch)
    assert (row.predicted, row.look_at) == ({"missing": "it failed"}, None)


def test_of_a_batch_that_was_cancelled_is_said_what_it_took(desk: Desk) -> None:
    batch = submit(desk, 40, "tiny", **BODY)
    run(desk, 2, 10.0, (500, 250), at_once=4)
    services.cancel(actor=audit.SYSTEM, batch=batch, now=desk.now)
    finishing.advance(desk.now)
    actual = said(batch, "actual")
    assert (actual["runtime_s"], actual["requests"]) == (20.0, 8)
    assert not Line.objects.filter(state=LineState.PENDING).exists()
    assert not forecasting.tend(desk.later(timedelta(days=1).total_seconds()))
