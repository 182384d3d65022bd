"""A quote beside a day of traffic on the endpoint made with it, and what that day teaches."""

import json
from datetime import datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from typing import Any

import pytest
from django.utils import timezone

from billing.models import UsageInbox
from billing.rating import rounded
from compliance.privacy import retention
from controlplane.endpoints import corrections_kept, served_days, speed_lessons
from controlplane.endpoints.models import (
    Endpoint,
    Replica,
    ServedDay,
    ServingInterval,
    SpeedCorrection,
    Start,
)
from controlplane.endpoints.states import Reason, State
from controlplane.fleet.models import Node, Pool
from controlplane.placement.speed.corrections import Key
from tests.api import house
from tests.api.house import House, post, signed_in, with_key
from tests.api.test_quotes import H100, LIKE, asked, of, quoted, shared
from workers import metering, tasks

__all__ = ["shared"]  # a fixture
REQUESTS, READ, WRITTEN = 200, 1000, 101


def made(of_house: House, told: dict[str, Any], **more: Any) -> Endpoint:
    """As the quote's candidate on an H100 says."""
    candidate = of(told, H100)
    body = {
        "project": of_house.project.id,
        "name": "quoted",
        "model": told["model"],
        "quote_id": told["id"],
        **candidate["endpoint"],
        **more,
    }
    answer = post(with_key(of_house.secret), "/endpoints", body)
    assert answer.status_code == 201, answer.content
    found: dict[str, Any] = json.loads(answer.content)
    assert found["quote_id"] == body["quote_id"]
    return Endpoint.objects.get(id=found["id"])


def traffic(endpoint: Endpoint, begins: datetime, tpot_s: float) -> None:
    """A day on one replica: it starts, serves until midnight, and answers."""
    Endpoint.objects.filter(id=endpoint.id).update(created_at=begins)
    ends = begins + timedelta(days=1)
    replica = Replica.objects.create(
        **{"endpoint": endpoint, "generation": 1, "state": State.READY},
        **{"reason": Reason.PROBE_PASSED, "state_at": begins, "created_at": begins},
        node=Node.objects.get(name__startswith=H100, pool=endpoint.pool),
    )
    Start.objects.create(
        **{"endpoint": endpoint, "replica": replica, "tier": "warm", "ready": True},
        **{"reason": Reason.PROBE_PASSED, "asked_at": begins, "ended_at": begins, "total_s": 33.0},
    )
    ServingInterval.objects.create(  # from half past the first minute on
        replica=replica, started_at=begins + timedelta(seconds=30), ended_at=ends, served_s=86_370
    )
    UsageInbox.objects.bulk_create(
        UsageInbox(
            request_id=f"{endpoint.id}-{number}",
            gateway_id="gw-1",
            key_id="key_1",
            project_id=endpoint.project_id,
            endpoint_id=endpoint.id,
            replica_id=replica.id,
            operation="chat.completions",
            opened_at=begins + timedelta(minutes=number),
            closed_at=begins + timedelta(minutes=number, seconds=5),
            status=200 if number else 499,  # one went away
            finish="complete" if number else "client_gone",
            counted_by="engine",
            input_tokens=READ,
            cached_tokens=0,
            output_tokens=WRITTEN,
            first_us=50_000 + 100 * number,
            decode_us=int(tpot_s * 1e6) * (WRITTEN - 1),
        )
        for number in range(REQUESTS + 1)
    )
    now = timezone.now()
    assert metering.book_requests(now) == REQUESTS + 1
    assert metering.meter_replicas(now) == 1440


@pytest.fixture
def yesterday() -> datetime:
    now = timezone.now()
    return now.replace(hour=0, minute=0, second=0, microsecond=0) - timedelta(days=1)


def later(begins: datetime) -> datetime:
    return begins + timedelta(days=1, hours=2)


def test_a_day_stands_beside_its_quote_and_teaches_the_next(
    alice: House, shared: Pool, yesterday: datetime, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = with_key(alice.secret)
    told = quoted(client, asked(alice))
    said = of(told, H100)
    endpoint = made(alice, told)
    page = signed_in(alice.owner).get(f"/endpoints/{endpoint.id}").content.decode()
    assert "After its first day of traffic" in page
    measured_s = round(1.5 * said["tpot_s"]["p50"], 5)
    traffic(endpoint, yesterday, measured_s)
    assert client.get(f"/api/v1/quotes/{told['id']}").json()["measured"] == []
    assert served_days.close(yesterday + timedelta(hours=23)) == 0  # it is not over
    assert served_days.close(later(yesterday)) == 1
    assert served_days.close(later(yesterday)) == 0

    (day,) = client.get(f"/api/v1/quotes/{told['id']}").json()["measured"]
    assert (day["endpoint"], day["day"]) == (endpoint.id, yesterday.date().isoformat())
    assert day["came"]["requests"] == REQUESTS
    assert day["came"]["prompt_tokens"] == READ and day["came"]["output_tokens"] == WRITTEN
    assert day["quoted_as"]["device_kind"] == H100
    figures = {one["figure"]: one for one in day["figures"]}
    assert figures["ttft_p50_s"]["measured"] == pytest.approx(0.06005, abs=1e-5)
    assert figures["ttft_p95_s"]["measured"] == pytest.approx(0.0690, abs=1e-4)
    assert figures["tpot_p50_s"]["predicted"] == said["tpot_s"]["p50"]
    assert figures["tpot_p50_s"]["off"] == pytest.approx(0.5, abs=0.01)
    assert figures["start_warm_s"]["measured"] == 33.0
    rate = REQUESTS * WRITTEN / 86_400
    assert figures["output_tokens_per_second"]["measured"] == pytest.approx(rate, abs=0.01)
    assert Decimal(figures["price_hour"]["measured"]) == Decimal("3.2000")
    assert figures["price_hour"]["predicted"] == said["price"]["hour"]
    exact = Fraction("3.20") * 86_370 / 3600 * 1_000_000 / (REQUESTS * (READ + WRITTEN))
    assert Decimal(figures["price_million_tokens"]["measured"]) == rounded(exact, 4)
    page = signed_in(alice.owner).get(f"/endpoints/{endpoint.id}").content.decode()
    assert "Quoted and measured" in page and "3.2000 EUR" in page and "+50 %" in page

    # Killed between the lesson and its mark, it is learned once all the same.
    with monkeypatch.context() as killed:
        killed.setattr(ServedDay, "save", lambda *_, **__: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            speed_lessons.teach(timezone.now())
    assert not SpeedCorrection.objects.exists()
    assert speed_lessons.teach(timezone.now()) == 1
    assert speed_lessons.teach(timezone.now()) == 0
    row = SpeedCorrection.objects.get()
    assert (row.model, row.device, row.ranks, row.shared) == (LIKE, "h100", 1, True)
    assert 1.2 < row.ratio < 2.5 and row.ratio_ttft is not None
    assert "org/model" not in str(vars(row))
    after = of(quoted(client, asked(alice)), H100)
    for name, ratio in (("tpot_s", row.ratio), ("ttft_s", row.ratio_ttft)):  # half of the way
        assert after[name]["p50"] / said[name]["p50"] == pytest.approx(ratio**0.5, rel=0.1)


def test_what_says_too_little_teaches_nothing(
    alice: House, shared: Pool, yesterday: datetime
) -> None:
    endpoint = made(alice, quoted(with_key(alice.secret), asked(alice)))
    few = {"timed_requests": speed_lessons.LEAST_REQUESTS - 1, "served_s": 60, "requests": 5}
    ServedDay.objects.create(endpoint=endpoint, day=yesterday.date(), figures=few)
    ServedDay.objects.create(  # nothing served it
        endpoint=endpoint,
        day=yesterday.date() - timedelta(days=1),
        figures={**few, "timed_requests": 1000},
    )
    tasks.tend_engines()
    assert not ServedDay.objects.filter(taught_at=None).exists()
    assert not SpeedCorrection.objects.exists()
    assert retention.carry_out("served_day", yesterday + timedelta(days=90)) == 1


def test_an_endpoint_that_runs_otherwise_is_not_compared(
    alice: House, mallory: House, shared: Pool, yesterday: datetime
) -> None:
    told = quoted(with_key(alice.secret), asked(alice))
    endpoint = made(alice, told, device_count=4)
    traffic(endpoint, yesterday, 0.02)
    tasks.hourly_upkeep()
    served_days.close(later(yesterday))
    (day,) = with_key(alice.secret).get(f"/api/v1/quotes/{told['id']}").json()["measured"]
    assert day["quoted_as"] is None and day["figures"] == []
    page = signed_in(alice.owner).get(f"/endpoints/{endpoint.id}").content.decode()
    assert "nothing to compare" in page
    hers = {"project": mallory.project.id, "name": "x", "model": "org/model", "device_kind": H100}
    stolen = post(with_key(mallory.secret), "/endpoints", {**hers, "quote_id": told["id"]})
    assert stolen.status_code == 404 and json.loads(stolen.content)["field"] == "quote_id"


def test_nobody_makes_others_engines_look_slow(alice: House, mallory: House, shared: Pool) -> None:
    key = Key(LIKE, "h100", 1, "none")

    def measure(of: House, ratio: float, count: int) -> None:
        for number in range(count):
            corrections_kept.measured(
                key,
                about=f"{of.organization.id} {ratio} {number}",
                organization=of.organization,
                shared=True,
                ratio=ratio,
                now=timezone.now() + timedelta(seconds=number),
            )

    measure(mallory, 4.0, 600)
    assert 1.9 < corrections_kept.of(alice.organization, LIKE)[key].factor <= 2.0  # half of it
    measure(house.build("honest"), 1.1, 1)
    seen = corrections_kept.of(alice.organization, LIKE)[key]
    assert seen.count == 2 and seen.factor < 1.1  # of two the one that is nearer to the formula
    measure(alice, 1.5, 10)
    assert corrections_kept.of(alice.organization, LIKE)[key].factor == pytest.approx(1.5, abs=0.1)
