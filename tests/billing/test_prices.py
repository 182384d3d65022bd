"""Prices: published, audited, never changed, the kind's own before the general one."""

from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest

from billing import errors
from billing.models import Price
from billing.pricing import prices
from compliance import audit
from compliance.models import AuditEvent
from tests.billing.events import MONTH, NOW, publish

pytestmark = pytest.mark.django_db
LATER = NOW + timedelta(days=1)


def test_a_version_is_in_force_from_its_time_on() -> None:
    publish("1", MONTH)
    publish("2", LATER, now=NOW)

    def at(moment: Any) -> Decimal | None:
        found = prices.in_force("device_seconds", "cpu", at=moment)
        return found.amount if found else None

    assert at(MONTH - timedelta(microseconds=1)) is None
    assert at(MONTH) == at(LATER - timedelta(microseconds=1)) == 1
    assert at(LATER) == 2


def test_the_kinds_own_price_beats_the_general_one() -> None:
    publish("1", MONTH)
    publish("5", LATER, now=NOW, device_kind="")
    for kind, amount in (("cpu", 1), ("nvidia-h200", 5)):
        found = prices.in_force("device_seconds", kind, at=LATER)
        assert found is not None
        assert found.amount == amount
    assert prices.in_force("device_seconds", at=LATER, currency="USD") is None


def test_publishing_is_audited_and_may_be_repeated() -> None:
    first = publish("1", MONTH)
    assert publish("1", MONTH) == first
    assert AuditEvent.objects.filter(action="price.create", target_id=first).count() == 1


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"meter": "egress"}, "no such meter"),
        ({"amount": Decimal("-1")}, "an amount is"),
        ({"amount": Decimal("NaN")}, "an amount is"),
        ({"amount": Decimal("Infinity")}, "an amount is"),
        ({"amount": Decimal(1_000_000)}, "an amount is"),
        ({"amount": 0.12}, "an amount is"),
        ({"amount": Decimal("0.1234567890123")}, "at most 12 decimals"),
        ({"currency": "euro"}, "no currency"),
        ({"valid_from": NOW - timedelta(seconds=1)}, "for the future only"),
        ({"valid_from": MONTH}, "a price from .* exists"),
    ],
)
def test_what_cannot_be_a_price_is_refused(change: dict[str, Any], why: str) -> None:
    publish("1", MONTH)
    named: dict[str, Any] = {
        "actor": audit.SYSTEM,
        "meter": "device_seconds",
        "device_kind": "cpu",
        "amount": Decimal(2),
        "valid_from": LATER,
        "now": NOW,
        **change,
    }
    with pytest.raises(errors.PriceRefused, match=why):
        prices.publish(**named)
    assert Price.objects.count() == 1


def test_a_fresh_installation_gets_its_prices_once() -> None:
    assert len(prices.publish_defaults(actor=audit.SYSTEM, now=NOW)) == 6
    assert prices.publish_defaults(actor=audit.SYSTEM, now=LATER) == []
    found = prices.in_force("device_seconds", "cpu", at=NOW)
    assert found is not None
    assert found.amount == Decimal("0.12")
    waiting = [
        prices.in_force(meter, "cpu", at=NOW) for meter in ("warm_seconds", "asleep_seconds")
    ]
    assert [one and one.amount for one in waiting] == [Decimal("0.06"), Decimal("0.02")]
    assert prices.in_force("device_seconds", "nvidia-h200", at=NOW) is None


def test_who_priced_serving_gets_no_default_for_waiting() -> None:
    publish("0.50", MONTH)
    assert len(prices.publish_defaults(actor=audit.SYSTEM, now=NOW)) == 3
    assert prices.in_force("warm_seconds", "cpu", at=NOW) is None
    found = prices.idle(prices.versions(), "cpu", NOW)
    assert found is not None and found.amount == Decimal("0.50")
