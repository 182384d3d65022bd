"""Quotes over the API: of the devices that one may have, at billing's prices, with every reason."""

import json
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest
from django.test import Client
from django.utils import timezone

from billing.models import Meter
from billing.pricing import prices
from compliance import audit, places
from compliance.models import AuditEvent
from compliance.privacy import retention
from controlplane.endpoints import corrections_kept, quote_keeping
from controlplane.endpoints.models import DeviceClaim, ModelFacts, Quote, Start
from controlplane.endpoints.states import Reason
from controlplane.fleet.models import Device, Node, Pool
from controlplane.placement import devices
from controlplane.placement.models import reading
from controlplane.placement.speed.corrections import Key, likeness
from tests.api.house import NOW, House, post, signed_in, with_key
from tests.endpoints.test_preflight import EIGHT, EIGHT_BYTES

H100, L40S = "nvidia-h100", "nvidia-l40s"
MODEL = "org/model"
LOAD = {"requests_per_second": 2, "prompt_tokens": 1000, "output_tokens": 200}
LIKE = likeness(reading.read(EIGHT))
JOB = {"job": {"requests": 2000, "prompt_tokens": 1000, "output_tokens": 200}}


def gpus(pool: Pool, kind: str, count: int) -> None:
    node = Node.objects.create(
        pool=pool,
        name=f"{kind}-{pool.id}",
        certificate_sha256=f"{kind}{pool.id}"[:64],
        certificate_expires_at=NOW,
        created_at=NOW,
    )
    memory = devices.find(kind).memory_bytes
    for index in range(count):
        Device.objects.create(node=node, index=index, kind=kind, name=kind, memory_bytes=memory)


def price(kind: str, amount: str) -> None:
    prices.publish(
        actor=audit.SYSTEM,
        meter=Meter.DEVICE_SECONDS,
        device_kind=kind,
        amount=Decimal(amount),
        valid_from=NOW,
        now=NOW,
    )


@pytest.fixture
def shared(alice: House) -> Pool:
    """Two kinds of GPU that every organization may use, at a price."""
    pool = Pool.objects.create(region_id="eu-de-1", name="shared", created_at=NOW)
    gpus(pool, H100, 8)
    gpus(pool, L40S, 4)
    price(H100, "3.20")
    price(L40S, "1.40")
    ModelFacts.objects.create(
        source="hub", model=MODEL, config=EIGHT, tensors={"rest": EIGHT_BYTES}, seen_at=NOW
    )
    return pool


def asked(house: House, **more: Any) -> dict[str, Any]:
    slo = {"ttft_p95_s": 2, "tpot_p95_s": 0.1}
    return {"project": house.project.id, "model": MODEL, "load": LOAD, "slo": slo, **more}


def quoted(client: Client, body: dict[str, Any]) -> dict[str, Any]:
    answer = post(client, "/quotes", body)
    assert answer.status_code == 201, answer.content
    found: dict[str, Any] = json.loads(answer.content)
    return found


def test_a_quote_is_given_kept_and_found_again(alice: House, shared: Pool) -> None:
    client = with_key(alice.secret)
    told = quoted(client, asked(alice))
    assert told["id"].startswith("quo_") and told["object"] == "quote"
    best = told["candidates"][0]
    assert {one["device_kind"] for one in told["candidates"]} <= {H100, L40S}
    assert best["ttft_s"]["p95"] <= 2 and best["tpot_s"]["p95"] <= 0.1
    assert set(best["starts_s"]) == {"wake", "standby", "warm", "cold"}
    amount = Decimal("3.20" if best["device_kind"] == H100 else "1.40")
    assert Decimal(best["price"]["hour"]) == best["devices"] * amount
    assert best["endpoint"]["device_count"] * best["replicas"] == best["devices"]
    assert any(one["device"] == "cpu" for one in told["rejected"])  # her own pool's
    assert all(one["reason"] for one in told["rejected"])
    again = client.get(f"/api/v1/quotes/{told['id']}").json()
    assert again == told
    later = quoted(client, asked(alice, load=None, **JOB))
    assert Decimal(later["candidates"][0]["price"]["job"]) > 0
    page = client.get("/api/v1/quotes", {"project": alice.project.id, "limit": "1"}).json()
    assert [one["id"] for one in page["data"]] == [later["id"]] and page["has_more"]
    event = AuditEvent.objects.get(action="quote.create", target_id=told["id"])
    assert event.outcome == "success"


def test_what_is_missing_or_wrong_is_named(alice: House, shared: Pool) -> None:
    client = signed_in(alice.owner)
    load = {"requests_per_second": 1, "prompt_tokens": 10}
    for changed, field, said in (
        ({"model": "org/unseen"}, "model", "the config.json of org/unseen: no node has brought it"),
        ({"model": None, "config": {"model_type": "riddle"}}, "config", "riddle"),
        ({"config": EIGHT}, "model", "one of model and config"),
        (
            {"model": None, "config": EIGHT | {"num_hidden_layers": 1000}},
            "config",
            "num_hidden_layers",
        ),
        ({"load": load}, "load.output_tokens", "a number"),
        ({"load": {**load, "colour": 1}}, "load.colour", "one of requests_per_second"),
        ({"load": LOAD | {"requests_per_second": 1e9}}, "load.requests_per_second", "at most"),
        ({"load": LOAD | {"prompt_tokens": 200_000}}, "model", "131,072 tokens"),
        ({"job": JOB["job"]}, "load", "one of load and job"),
        ({"slo": {"ttft_p95_s": 0}}, "slo.ttft_p95_s", "more than 0"),
        ({"arguments": {"max_sequences": 3}}, "arguments.max_sequences", ""),
        ({"arguments": {"tensor_parallel_size": 2}}, "arguments.tensor_parallel_size", "itself"),
        ({"quantizations": ["int3"]}, "quantizations", ""),
        ({"quantizations": "fp8"}, "quantizations", "a list"),
        ({"engine_version": "9.9.9"}, "engine_version", "no version"),
        ({"model": "nowhere"}, "model", ""),
        ({"budget": 5}, "budget", "one of"),
    ):
        answer = post(client, "/quotes", asked(alice, **changed))
        told = json.loads(answer.content)
        assert (answer.status_code, told.get("field")) == (422, field), (changed, told)
        assert said in told["detail"], told
    assert not Quote.objects.exists()
    reader = post(with_key(alice.reader), "/quotes", asked(alice))
    assert reader.status_code == 403
    assert post(client, "/quotes", {**asked(alice), "project": "prj_x"}).status_code == 404


def test_a_config_of_ones_own_is_quoted(alice: House, shared: Pool) -> None:
    body = asked(alice, model=None, config=EIGHT, quantizations=["fp8"])
    told = quoted(with_key(alice.secret), body)
    assert told["candidates"][0]["quantization"] in ("fp8", None)
    assert "config" not in told["asked"] and told["model"] == ""


def test_devices_of_others_are_neither_offered_nor_told(
    alice: House, mallory: House, shared: Pool
) -> None:
    gpus(mallory.pool, "nvidia-h200", 8)
    price("nvidia-h200", "0.01")
    told = quoted(with_key(alice.secret), asked(alice))
    assert "h200" not in json.dumps(told)
    hers = quoted(with_key(mallory.secret), asked(mallory))
    assert hers["candidates"][0]["device_kind"] == "nvidia-h200"


def test_what_is_free_bounds_what_is_quoted(alice: House, shared: Pool) -> None:
    many = LOAD | {"requests_per_second": 400}
    told = quoted(with_key(alice.secret), asked(alice, load=many))
    assert told["candidates"] == []
    assert any("devices, 8 are free" in one["reason"] for one in told["rejected"])
    assert on_h100(alice)["endpoint"]["pool"] == shared.id
    # One of each kind is left: too little for what takes two.
    for node in Node.objects.filter(pool=shared):
        for device in list(node.devices.order_by("index"))[1:]:
            DeviceClaim.objects.create(device=device, replica=alice.replica)
    wide = asked(alice, config={**EIGHT, "num_hidden_layers": 200}, model=None)
    told = quoted(with_key(alice.secret), wide)
    assert told["candidates"] == []
    # Her own pool has more of them then than the shared one.
    gpus(alice.pool, H100, 8)
    assert on_h100(alice)["endpoint"]["pool"] == alice.pool.id


def on_h100(house: House) -> dict[str, Any]:
    return of(quoted(with_key(house.secret), asked(house)), H100)


def test_starts_that_were_measured_come_first(alice: House, mallory: House, shared: Pool) -> None:
    """Of one's own organization, or of all where nodes serve everybody."""
    endpoint = mallory.endpoint
    endpoint.pool = shared
    endpoint.save()
    version = endpoint.versions.get()
    spec = {**version.spec, "source": "hub", "model": MODEL, "device_kind": H100}
    made = endpoint.versions.create(number=2, spec=spec, created_at=NOW, created_by="")
    replica = mallory.replica
    replica.generation = made.number
    replica.save()
    before = quoted(with_key(alice.secret), asked(alice, load=LOAD))
    for total in (30.0, 31.0, 47.0):
        Start.objects.create(
            **{"endpoint": endpoint, "replica": replica, "tier": "warm", "ready": True},
            **{"reason": Reason.NODE_REPORT, "asked_at": NOW, "ended_at": NOW},
            total_s=total,
            phases={"queued": 1.0},
        )
    after = quoted(with_key(alice.secret), asked(alice, load=LOAD))
    assert of(after, H100)["starts_s"]["warm"] == {"p50": 30.0, "p95": 46.0}
    assert of(before, H100)["starts_s"]["warm"] != of(after, H100)["starts_s"]["warm"]
    assert of(before, L40S)["starts_s"] == of(after, L40S)["starts_s"]
    ModelFacts.objects.update(project=alice.project)  # no longer open to everybody
    hidden = quoted(with_key(alice.secret), asked(alice, load=LOAD))
    assert of(hidden, H100)["starts_s"] == of(before, H100)["starts_s"]


def of(told: dict[str, Any], kind: str) -> dict[str, Any]:
    return next(one for one in told["candidates"] if one["device_kind"] == kind)


def test_what_was_measured_corrects_quotes_and_nobody_poisons_others(
    alice: House, mallory: House, shared: Pool
) -> None:
    before = of(quoted(with_key(alice.secret), asked(alice)), H100)["tpot_s"]["p50"]

    def measure(house: House, ratio: float, shared: bool, count: int) -> int:
        return sum(
            corrections_kept.measured(
                Key(LIKE, "h100", 1, "none"),
                about=f"{house.organization.id} {ratio} {shared} {number}",
                organization=house.organization,
                shared=shared,
                ratio=ratio,
                now=NOW + timedelta(seconds=number),
            )
            for number in range(count)
        )

    def seen(house: House) -> float:
        known = corrections_kept.of(house.organization, LIKE)
        return known[Key(LIKE, "h100", 1, "none")].factor if known else 1.0

    assert measure(mallory, 4.0, False, 20) == 20 and measure(mallory, 4.0, False, 20) == 0
    assert seen(alice) == 1.0 and seen(mallory) > 1.5  # her own pool teaches her alone
    for absurd in (0.01, 100.0, float("nan"), -1.0):
        assert measure(mallory, absurd, True, 1) == 0
    assert measure(alice, 1.5, True, 5) == 5
    assert 1.2 < seen(alice) < 1.5
    after = of(quoted(with_key(alice.secret), asked(alice)), H100)["tpot_s"]["p50"]
    assert after / before == pytest.approx(seen(alice), rel=0.15)


def test_too_many_are_refused_and_old_ones_go(alice: House, shared: Pool) -> None:
    now = timezone.now()
    rows = {"project": alice.project, "engine_version": "0.32.0", "body": {}}
    answer: dict[str, Any] = {"candidates": [], "rejected": []}
    for number in range(quote_keeping.MOST):
        at = now - timedelta(seconds=number % 2)
        Quote.objects.create(**rows, answer=answer, created_at=at)
    assert post(with_key(alice.secret), "/quotes", asked(alice)).status_code == 429
    assert retention.carry_out("quote", now + timedelta(days=30)) == quote_keeping.MOST // 2
    (place,) = (one for one in places.places() if one.name == "quotes")
    assert place.erase(alice.project.id, now) == quote_keeping.MOST // 2
