"""Usage and prices for tests of billing."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

from billing.meters import usage
from billing.models import Account
from billing.pricing import prices
from compliance import audit

MONTH = datetime(2026, 3, 1, tzinfo=UTC)
NOW = datetime(2026, 3, 15, 12, 0, tzinfo=UTC)


def seconds(account: Account, at: datetime = NOW, quantity: int = 60, **fields: Any) -> usage.Event:
    """A minute of a CPU that somebody owes; `fields` change it."""
    named = {
        "id": f"rep_1:siv_1:{int(at.timestamp())}",
        "account_id": account.id,
        "project_id": "prj_1",
        "endpoint_id": "ep_1",
        "replica_id": "rep_1",
        "region": "eu-de-1",
        "device_kind": "cpu",
        "meter": "device_seconds",
        "basis": "charge",
        **fields,
    }
    return usage.Event(at=at, quantity=quantity, **named)


def tokens(account: Account, request: str, at: datetime = NOW, **fields: Any) -> usage.Event:
    """A thousand output tokens of one request, which only attribute a cost."""
    named = {
        "id": f"{request}:output_tokens",
        "request_id": request,
        "key_id": "key_1",
        "meter": "output_tokens",
        "basis": "attribution",
        "quantity": 1000,
        **fields,
    }
    quantity = named.pop("quantity")
    return seconds(account, at, quantity, **named)


def publish(amount: str, valid_from: datetime, now: datetime = MONTH, **fields: Any) -> str:
    named: dict[str, Any] = {"meter": "device_seconds", "device_kind": "cpu", **fields}
    price = prices.publish(
        actor=audit.SYSTEM, amount=Decimal(amount), valid_from=valid_from, now=now, **named
    )
    return price.id


def minutes(account: Account, start: datetime, count: int, **fields: Any) -> list[usage.Event]:
    return [seconds(account, start + timedelta(minutes=m), **fields) for m in range(count)]
