"""Beside the forms of endpoints: whether what is typed would fit, and what it would cost."""

import html
import re
from decimal import Decimal
from typing import Any

import pytest
from django.core.cache import cache
from django.test import Client
from django.utils import timezone

from billing.pricing import prices
from compliance import audit
from compliance.models import AuditEvent
from controlplane import pace
from controlplane.endpoints.models import Endpoint, ModelFacts, Start
from controlplane.endpoints.states import Reason
from controlplane.pace import RESERVED_S, Pace, TooFast
from tests.api.house import House, post, signed_in, with_key
from tests.api.test_endpoints import body, gpu

DRAFT = {
    "model": "org/large",
    "device_kind": "nvidia-l4",
    "device_count": "1",
    "min_replicas": "1",
    "max_replicas": "4",
}
WISH = {"model": "org/large", "device_kind": "nvidia-l4", "engine_args": {}}


def text(answer: Any) -> str:
    """As it is read: without marks, in one line."""
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", answer.content.decode())).split())


def ask(house: House, client: Client | None = None, **changes: Any) -> str:
    client = client or signed_in(house.owner)
    asked = {"project": house.project.id, **DRAFT, **changes}
    return text(client.post("/endpoints/fit", asked))


def priced() -> None:
    now = timezone.now()
    prices.publish(
        meter="device_seconds",
        device_kind="nvidia-l4",
        amount=Decimal("0.80"),
        valid_from=now,
        actor=audit.SYSTEM,
        now=now,
    )


def test_it_says_what_create_would_say_and_writes_nothing(alice: House) -> None:
    gpu(alice)
    client = signed_in(alice.owner)
    before = Endpoint.objects.count(), AuditEvent.objects.count()
    said = ask(alice, client)
    assert (Endpoint.objects.count(), AuditEvent.objects.count()) == before
    refused = post(with_key(alice.secret), "/endpoints", body(alice, **WISH)).json()
    assert said.startswith("Does not fit on 1 x nvidia-l4")
    assert refused["detail"] in said
    told = refused["prediction"]
    assert f"{told['kv_bytes']['p50'] / 2**30:.1f} GiB, {told['kv_tokens']['p50']:,.0f} tokens" in (
        said
    )
    for one in told["advice"]:
        value = int(one["value"])
        assert f"Context of {value:,} tokens" in said or f"{value} devices" in said
        shorter = {one["argument"]: one["value"]}
        assert ask(alice, **shorter).startswith("Fits on"), one
    assert f"; {told['longest_context']['p95']:,.0f} to be sure" in said
    fits = ask(alice, max_model_len="8192", kv_cache_dtype="fp8", max_num_seqs="16")
    assert "of 8,192 tokens each" in fits
    assert "It would fit with" not in fits


def test_the_price_is_billings_for_each_replica_and_for_all(alice: House) -> None:
    gpu(alice)
    assert "no price is published" in ask(alice, max_model_len="8192")
    priced()
    both = ask(alice, max_model_len="8192", device_count="2")
    assert "A replica €1.60 an hour" in both
    assert "€1.60 to €6.40 an hour for 1 to 4" in both
    asleep = ask(alice, max_model_len="8192", min_replicas="0")
    assert "nothing while it sleeps, at most €3.20 an hour" in asleep


def test_starts_are_measured_where_there_were_some(alice: House) -> None:
    gpu(alice)
    assert "s standby" in ask(alice, max_model_len="8192")
    assert "(measured)" not in ask(alice, max_model_len="8192")
    made = post(
        with_key(alice.secret),
        "/endpoints",
        body(alice, **{**WISH, "engine_args": {"max_model_len": 4096}}),
    ).json()
    endpoint = Endpoint.objects.get(id=made["id"])
    now = timezone.now()
    for number in range(3):
        replica = endpoint.replicas.create(
            generation=1, reason=Reason.SCALE_UP, state_at=now, created_at=now
        )
        Start.objects.create(
            id=f"sta_{number}",
            endpoint=endpoint,
            replica=replica,
            tier="warm",
            ready=True,
            asked_at=now,
            ended_at=now,
            total_s=33.0,
            phases={},
        )
    cache.clear()  # kept for a minute, as it is asked for with each letter
    assert "33 s warm (measured)" in ask(alice, max_model_len="8192")


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"model": ""}, "Name a model"),
        ({"model": "org/unseen"}, "it takes the config.json of org/unseen: no node has brought it"),
        ({"device_count": "3"}, "Devices for a replica: 3 devices of kind nvidia-l4"),
        ({"device_count": ""}, "Devices for a replica: This field is required"),
        ({"max_model_len": "4"}, "expected 16 to"),
        ({"max_model_len": "9" * 400}, "Context length"),
        ({"more": "max_modle_len=1"}, "the nearest is max_model_len"),
        ({"engine": "custom", "image_reference": "registry.example/mine:1"}, "Not judged"),
        ({"device_kind": "nvidia-h200"}, "Devices: Select a valid choice"),
        ({"min_replicas": "5"}, "0 to max_replicas (4)"),
    ],
)
def test_what_is_missing_or_cannot_be_is_named(
    alice: House, settings: Any, changed: dict[str, Any], words: str
) -> None:
    settings.IMAGE_REGISTRIES = ("registry.example",)
    gpu(alice)
    assert words in ask(alice, **changed)


def test_nothing_is_told_of_another_projects_models_and_pools(alice: House, mallory: House) -> None:
    gpu(alice)
    ModelFacts.objects.update(project=alice.project)
    assert "Weights" in ask(alice, max_model_len="8192")
    stranger = signed_in(mallory.owner)
    foreign = {"project": alice.project.id, **DRAFT}
    assert stranger.post("/endpoints/fit", foreign).status_code == 404
    assert "Select a valid choice" in ask(mallory)  # not even that there are such devices
    mallory.node.devices.update(
        kind="nvidia-l4", memory_bytes=alice.node.devices.all()[0].memory_bytes
    )
    mine = ask(mallory)
    assert "no node has brought it yet" in mine
    assert "GiB" not in mine
    shown = stranger.post(f"/endpoints/{alice.endpoint.id}/fit", {"device_count": "1"})
    assert shown.status_code == 404
    assert signed_in(alice.billing).post("/endpoints/fit", foreign).status_code == 403


def test_a_change_is_foreseen_as_it_would_be_judged(alice: House) -> None:
    gpu(alice)
    priced()
    wish = body(alice, **{**WISH, "engine_args": {"max_model_len": 4096}})
    made = post(with_key(alice.secret), "/endpoints", wish).json()
    client, page = signed_in(alice.owner), f"/endpoints/{made['id']}/fit"
    change = {"model": "org/large", "device_count": "1", "engine_args": "{}", "image": "null"}
    assert text(client.post(page, change)).startswith("Does not fit on 1 x nvidia-l4")
    shorter = {**change, "engine_args": '{"max_model_len": 8192}'}
    assert text(client.post(page, shorter)).startswith("Fits on 1 x nvidia-l4 €0.80")
    assert "expected 16 to" in text(
        client.post(page, {**change, "engine_args": '{"max_model_len": 1}'})
    )
    assert "JSON" in text(client.post(page, {**change, "engine_args": "{"}))
    assert Endpoint.objects.get(id=made["id"]).versions.count() == 1


def test_whoever_asks_too_often_is_asked_to_wait(
    alice: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    gpu(alice)
    monkeypatch.setattr(pace, "PREDICTIONS", Pace(share=0.1, most_s=RESERVED_S / 2))
    client = signed_in(alice.owner)
    answer = client.post("/endpoints/fit", {"project": alice.project.id, **DRAFT})
    assert "Asked too often: the next answer comes in 1 s" in text(answer)
    assert 'hx-trigger="load delay:1s"' in answer.content.decode()
    assert "Weights" not in text(answer)


def test_who_is_signed_out_is_sent_to_sign_in_by_the_whole_page(alice: House) -> None:
    answer = Client().post("/endpoints/fit", DRAFT, headers={"hx-request": "true"})
    assert answer.headers["hx-refresh"] == "true"


def test_pace_counts_seconds_not_questions() -> None:
    clock, spent = [0.0], [0.0]
    each = Pace(share=0.5, most_s=2.0, clock=lambda: clock[0], spent=lambda: spent[0])
    for _ in range(100):  # what takes nothing may be asked without end
        with each.paid("a"):
            pass
    with each.paid("a"):
        spent[0] += 3.0
    with pytest.raises(TooFast) as caught, each.paid("a"):
        raise AssertionError("it was let in")
    assert caught.value.wait_s == pytest.approx((3.0 + RESERVED_S - 2.0) / 0.5)
    with each.paid("b"):  # and nobody pays for another
        pass
    clock[0] += caught.value.wait_s
    with each.paid("a"):
        pass


def test_many_questions_at_once_are_held_back_before_they_cost() -> None:
    each = Pace(share=0.5, most_s=1.0, clock=lambda: 0.0, spent=lambda: 0.0)
    under_way = [each.paid("a") for _ in range(6)]
    let_in = 0
    for one in under_way:
        try:
            one.__enter__()
            let_in += 1
        except TooFast:
            break
    assert let_in == round(1.0 / RESERVED_S)
