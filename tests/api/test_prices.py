"""Prices over HTTP and by command: what holds for whom, and who may say what will."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from io import StringIO
from typing import Any

import pytest
from django.core.management import call_command
from django.core.management.base import CommandError
from django.test import Client
from django.utils import timezone

from billing.meters import usage
from billing.models import Price
from billing.pricing import prices
from compliance import audit
from compliance.models import AuditEvent
from tests.api.house import House, post, signed_in, with_key

SECOND = {"meter": "device_seconds", "device_kind": "cpu"}


def following(month: datetime) -> datetime:
    return (month.replace(day=1) + timedelta(days=32)).replace(
        day=1, hour=0, minute=0, second=0, microsecond=0
    )


@pytest.fixture
def operator(alice: House) -> Client:
    alice.owner.is_operator = True
    alice.owner.save()
    return signed_in(alice.owner)


def listed(client: Client, house: House) -> dict[str, Any]:
    answer = client.get("/api/v1/prices", {"organization": house.organization.id})
    assert answer.status_code == 200, answer.content
    found: dict[str, Any] = answer.json()
    return found


def test_prices_are_published_overridden_and_withdrawn(
    alice: House, mallory: House, operator: Client
) -> None:
    now = timezone.now()
    prices.publish_defaults(actor=audit.SYSTEM, now=now)
    later, end = now + timedelta(hours=1), now + timedelta(days=40)
    own = {**SECOND, "amount": "0.1", "organization": mallory.organization.id}
    made = post(operator, "/prices", {**own, "valid_from": later.isoformat()})
    assert made.status_code == 201, made.content
    assert made.json()["account"] == mallory.organization.account_id
    # Told in the log of the organization whose price it is.
    event = AuditEvent.objects.get(action="price.create", target_id=made.json()["id"])
    assert event.log_id == mallory.organization.id
    found = listed(signed_in(mallory.owner), mallory)
    (cpu,) = [one for one in found["prices"] if one["sku"] == "serving-hour/cpu"]
    assert (cpu["amount"], cpu["own"], cpu["next_amount"]) == (
        "0.120000000000",
        False,
        "0.100000000000",
    )
    assert found["egress"] == "0.00"
    assert "starting" in found["never_billed"]
    assert with_key(mallory.secret).get("/api/v1/prices").json()["prices"] == found["prices"]
    gone = post(operator, "/prices/withdraw", {**SECOND, "at": end.isoformat()})
    assert gone.status_code == 201
    (cpu,) = [one for one in listed(operator, alice)["prices"] if one["sku"] == "serving-hour/cpu"]
    assert (cpu["next_amount"], cpu["next_at"][:10]) == (None, end.date().isoformat())


def test_terms_are_agreed_and_shown_to_whom_they_are_with(
    alice: House, mallory: House, operator: Client
) -> None:
    start = following(timezone.now()).isoformat()
    place = {"organization": mallory.organization.id, "valid_from": start}
    terms: list[dict[str, Any]] = [
        {"kind": "commitment", "amount": "500.00"},
        {"kind": "allowance", "meter": "warm_seconds", "quantity": 3600},
        {"kind": "tier", "meter": "output_tokens", "quantity": 10**9, "discount": 100},
    ]
    for term in terms:
        answer = post(operator, "/prices/terms", {**term, **place})
        assert answer.status_code == 201, answer.content
    shown = listed(signed_in(mallory.owner), mallory)["terms"]
    assert [one["kind"] for one in shown] == [one["kind"] for one in terms]
    assert shown[0]["amount"] == "500.00"
    assert listed(signed_in(alice.owner), alice)["terms"] == []


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("/prices", {"meter": "egress"}, 422),
        ("/prices", {"amount": "-1"}, 422),
        ("/prices", {"amount": "NaN"}, 422),
        ("/prices", {"valid_from": "2020-01-01T00:00:00Z"}, 422),
        ("/prices", {"organization": "org_00000000000000000000000000"}, 404),
        ("/prices", {"currency": "USD", "organization": "mine"}, 422),
        ("/prices/withdraw", {"device_kind": "nobody"}, 422),
        ("/prices/terms", {"kind": "tier", "meter": "egress"}, 422),
        ("/prices/terms", {"kind": "tier", "amount": "1"}, 422),
        ("/prices/terms", {"kind": "commitment", "amount": "1", "valid_from": "mid"}, 422),
        ("/prices/terms", {"kind": "allowance", "amount": "0.001"}, 422),
    ],
)
def test_nonsense_is_refused(
    alice: House, operator: Client, path: str, body: dict[str, Any], status: int
) -> None:
    now = timezone.now()
    prices.publish_defaults(actor=audit.SYSTEM, now=now)
    good: dict[str, Any] = {**SECOND, "amount": "1", "at": now + timedelta(days=1)}
    good["valid_from"] = now + timedelta(days=1)
    if path.endswith("terms"):
        good = {"valid_from": following(now), "organization": "mine", "meter": "device_seconds"}
        good["meter"] = "" if body.get("kind") == "commitment" else "device_seconds"
    given = {**good, **body}
    if given.get("valid_from") == "mid":
        given["valid_from"] = following(now) + timedelta(days=3)
    if given.get("organization") == "mine":
        given["organization"] = alice.organization.id
    times = {name: at.isoformat() for name, at in given.items() if isinstance(at, datetime)}
    before = Price.objects.count()
    answer = post(operator, path, given | times)
    assert answer.status_code == status, answer.content
    assert Price.objects.count() == before


def test_only_the_operator_sets_prices(alice: House) -> None:
    for client in (signed_in(alice.owner), with_key(alice.secret)):
        for path in ("/prices", "/prices/withdraw", "/prices/terms"):
            assert post(client, path, {}).status_code == 404


def test_a_month_is_foretold(alice: House, mallory: House) -> None:
    prices.publish_defaults(actor=audit.SYSTEM, now=timezone.now())
    client = signed_in(alice.owner)
    place = {"organization": alice.organization.id}
    found = client.get("/api/v1/costs/forecast", place).json()
    assert (found["so_far"], found["low"], found["high"]) == ("0.00", "0.00", "0.00")
    usage.record(
        [
            usage.Event(
                id="now",
                at=timezone.now() - timedelta(microseconds=1),
                account_id=alice.organization.account_id,
                project_id=alice.project.id,
                endpoint_id=alice.endpoint.id,
                region="eu-de-1",
                device_kind="cpu",
                meter="device_seconds",
                basis="charge",
                quantity=360_000,
            )
        ]
    )
    found = client.get("/api/v1/costs/forecast", place).json()
    assert found["so_far"] == found["low"] == "12.00"
    assert Decimal(found["high"]) >= Decimal(found["expected"]) >= 12
    for stranger in (signed_in(mallory.owner), with_key(mallory.secret)):
        assert stranger.get("/api/v1/costs/forecast", place).status_code == 404
        assert stranger.get("/api/v1/prices", place).status_code == 404


@pytest.mark.django_db
def test_the_operators_command(alice: House) -> None:
    def said(*arguments: str) -> str:
        out = StringIO()
        call_command("prices", *arguments, stdout=out)
        return out.getvalue()

    prices.publish_defaults(actor=audit.SYSTEM, now=timezone.now())
    account, start = alice.organization.account_id, following(datetime.now(UTC)).isoformat()
    own = ("--kind", "cpu", "--from", start, "--account", account)
    assert said("publish", "device_seconds", "0.1", *own).startswith("prc_")
    assert said("agree", "commitment", "--account", account, "--from", start, "--amount", "9.5")
    assert "serving-hour/cpu" in said()
    assert "0.12 EUR for 3600" in said("--account", account)
    assert '"next_amount": "0.1' in said("--account", account, "--json")
    said("withdraw", "device_seconds", "--kind", "cpu", "--at", start)
    with pytest.raises(CommandError, match="no such price"):
        said("withdraw", "device_seconds", "--kind", "cpu", "--at", start, "--currency", "USD")
    with pytest.raises(CommandError, match="zone"):
        said("withdraw", "device_seconds", "--at", "2026-01-01")
