"""Stripe's meters, where they are wanted: whole seconds, once, and never for ever."""

from datetime import datetime, timedelta
from io import StringIO
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from pytest_django import Settings

from billing.meters import usage
from billing.models import Account, Basis, Entity, Meter
from billing.payments.stripe import checking, customers, meters
from billing.payments.stripe.client import Client, connect
from billing.payments.stripe.models import StripeMeterEvent
from tests.billing.stripe.payer import START, House
from tests.stripe_server.store import Obj

pytestmark = pytest.mark.django_db
HOUR = START - timedelta(hours=2)


@pytest.fixture
def house(house: House, account: Account, entity: Entity, settings: Settings) -> House:
    settings.STRIPE_METERS = True
    house.client = connect()
    meters.make(house.client)
    customers.ensure(account.id, now=house.clock())
    house.work()
    return house


def served(account: Account, id: str, seconds: int, at: datetime = HOUR, **more: Any) -> None:
    fields: dict[str, Any] = {
        "id": id,
        "at": at,
        "account_id": account.id,
        "project_id": "prj_1",
        "endpoint_id": "ep_1",
        "region": "eu-de-1",
        "device_kind": "l40s",
        "meter": Meter.DEVICE_SECONDS.value,
        "basis": Basis.CHARGE.value,
        "quantity": seconds,
    } | more
    usage.record([usage.Event(**fields)])


def told(house: House) -> list[Obj]:
    meters.tell(house.clock())
    house.work()
    return list(house.fake.store.all("billing.meter_event"))


def test_an_hour_is_told_once_in_whole_seconds_and_never_money(
    house: House, account: Account
) -> None:
    served(account, "a", 1000)
    served(account, "b", 501, share=500)  # 250.5 seconds of a device
    (event,) = told(house)
    assert event["payload"] == {"stripe_customer_id": customers.of(account.id), "value": "1251"}
    assert (event["event_name"], event["timestamp"]) == (
        "stoa_device_seconds",
        int(HOUR.timestamp()),
    )
    assert event["identifier"].startswith(f"{account.id}:device_seconds:")
    assert len(event["identifier"]) <= 100
    house.clock.pass_by(hours=48)  # Stripe has forgotten the identifier by now
    assert len(told(house)) == 1


def test_late_usage_is_told_as_more_and_too_much_is_taken_back_within_a_day(
    house: House, account: Account
) -> None:
    served(account, "a", 1000)
    told(house)
    served(account, "b", 60)
    assert [one["payload"]["value"] for one in told(house)] == ["1000", "60"]
    served(account, "c", 100, basis=Basis.CREDIT.value)
    told(house)
    events = told(house)
    counted = [one["payload"]["value"] for one in events if not one.get("_lost")]
    assert counted == ["960"]
    house.clock.pass_by(hours=24)
    served(account, "d", 100, basis=Basis.CREDIT.value)
    assert len(told(house)) == len(events)  # later it stays: our own invoices do not


def test_away_for_two_days_it_is_counted_once(house: House, account: Account) -> None:
    """Done before the answer was lost, and asked again when Stripe has forgotten the identifier."""
    served(account, "a", 1000)
    house.fake.fault = lambda method, path: "cut_after" if "meter_events" in path else ""
    told(house)
    house.fake.fault = lambda method, path: "cut_before" if "meter_events" in path else ""
    house.clock.pass_by(hours=48)
    assert len(told(house)) == 1
    house.fake.fault = lambda method, path: ""
    house.clock.pass_by(hours=2)
    assert len(told(house)) == 1
    assert StripeMeterEvent.objects.get().sent_at is not None


def test_what_is_too_old_is_given_up_and_said(
    house: House, account: Account, caplog: pytest.LogCaptureFixture
) -> None:
    served(account, "a", 1000)
    house.fake.fault = lambda method, path: "cut_before" if "meter_events" in path else ""
    assert told(house) == []
    house.clock.pass_by(days=8)
    assert meters.give_up(house.clock()) == 0
    assert "have waited for more than 7 days" in caplog.text
    house.clock.pass_by(days=27)
    assert meters.give_up(house.clock()) == 1
    assert "too old for Stripe's meter" in caplog.text
    house.fake.fault = lambda method, path: ""
    assert told(house) == []
    differences = checking.run(house.client, house.clock()).differences
    assert "1 events were too old for Stripe's meters" in differences


def test_a_loss_at_stripe_is_found(house: House, account: Account) -> None:
    served(account, "a", 1000)
    (event,) = told(house)
    house.clock.pass_by(days=2)
    assert checking.run(house.client, house.clock()).differences == []
    event["_lost"] = True
    (difference,) = checking.run(house.client, house.clock()).differences
    assert "counts 0 device_seconds" in difference and "was told 1000" in difference


def test_the_operators_command(house: House, client: Client) -> None:
    said = StringIO()
    call_command("stripe", "make-meters", stdout=said)
    assert said.getvalue() == ""  # they are there
    with pytest.raises(CommandError, match="Only a payment that succeeded"):
        call_command("stripe", "refund", "spy_none", "100")
    customers.ensure("acc_other", now=house.clock())
    call_command("stripe", "waiting", stdout=said)
    assert "customer acc_other" in said.getvalue()
