"""Costs as files, and what devices earn, over HTTP: who may have them, and that they add up."""

import csv
import json
from datetime import timedelta
from decimal import Decimal
from io import StringIO
from typing import Any

import pytest
from django.test import Client
from django.utils import timezone

from billing import months
from billing.meters import usage
from billing.pricing import prices
from billing.reports import focus
from compliance import audit
from tests.api.house import House, post, signed_in


def used(house: House, quantity: int, **fields: Any) -> usage.Event:
    named = {
        "meter": "device_seconds",
        "basis": "charge",
        "device_kind": "cpu",
        "id": f"{house.organization.id}:{quantity}",
        "at": months.start_of(timezone.now()),
        **fields,
    }
    return usage.Event(
        account_id=house.organization.account_id,
        project_id=house.project.id,
        endpoint_id=house.endpoint.id,
        region="eu-de-1",
        quantity=quantity,
        **named,
    )


@pytest.fixture
def month(alice: House, mallory: House) -> Client:
    """Alice used 90 minutes at 0.12 an hour, of which ten were given back; and tokens, not owed."""
    prices.publish_defaults(actor=audit.SYSTEM, now=timezone.now())
    later = months.start_of(timezone.now()) + timedelta(minutes=59)
    usage.record(
        [
            used(alice, 5400),
            used(alice, 600, basis="credit", at=later),
            used(alice, 1000, meter="output_tokens", basis="attribution", device_kind=""),
            used(mallory, 777),
        ]
    )
    return signed_in(alice.owner)


def read(answer: Any) -> str:
    assert answer.status_code == 200, answer.content
    return b"".join(answer.streaming_content).decode()


def test_hours_as_csv_and_jsonl(month: Client, alice: House) -> None:
    path = f"/api/v1/cost-exports?organization={alice.organization.id}"
    rows = list(csv.DictReader(StringIO(read(month.get(path)))))
    found = {row["basis"]: (row["quantity"], row["amount"], row["unit_amount"]) for row in rows}
    assert found == {
        "charge": ("5400", "0.180000000000", "0.120000000000"),
        "credit": ("600", "-0.020000000000", "0.120000000000"),
        "attribution": ("1000", "0.000400000000", "0.400000000000"),
    }
    assert {row["endpoint"] for row in rows} == {alice.endpoint.id}
    lines = [json.loads(line) for line in read(month.get(f"{path}&as=jsonl")).splitlines()]
    assert [{**line} for line in lines] == rows
    of_project = f"{path}&project={alice.project.id}"
    assert len(read(month.get(of_project)).splitlines()) == 4


def test_a_month_as_focus(month: Client, alice: House) -> None:
    text = f"{timezone.now():%Y-%m}"
    path = f"/api/v1/cost-exports?organization={alice.organization.id}&as=focus&month={text}"
    answer = month.get(path)
    assert "attachment" in answer["content-disposition"]
    rows = list(csv.DictReader(StringIO(read(answer))))
    assert tuple(rows[0]) == focus.COLUMNS
    assert [row["BilledCost"] for row in rows] == ["0.18", "-0.02"]
    assert {row["InvoiceId"] for row in rows} == {""}
    assert {row["SubAccountName"] for row in rows} == {alice.project.name}
    assert sum(Decimal(row["BilledCost"]) for row in rows) == Decimal("0.16")


def test_only_those_who_may_see_costs(month: Client, alice: House, mallory: House) -> None:
    path = f"/api/v1/cost-exports?organization={mallory.organization.id}"
    assert month.get(path).status_code == 404
    mine = f"/api/v1/cost-exports?organization={alice.organization.id}"
    assert Client().get(mine).status_code == 401
    for query in ("&as=xml", "&month=2026-13", "&month=no", "&as=focus"):
        assert month.get(mine + query).status_code == 422, query


def test_margins_are_the_operators(month: Client, alice: House, operator: Client) -> None:
    assert month.get("/api/v1/margin").status_code == 404
    made = post(operator, "/owned-costs", {"device_kind": "cpu", "amount": "0.03"})
    assert made.status_code == 201, made.content
    assert post(month, "/owned-costs", {"device_kind": "cpu", "amount": "1"}).status_code == 404
    refused = post(operator, "/owned-costs", {"device_kind": "cpu", "amount": "-1"})
    assert (refused.status_code, refused.json()["code"]) == (422, "price_refused")
    (row,) = operator.get("/api/v1/margin").json()["data"]
    assert row["device_kind"] == "cpu"
    assert row["revenue"] == str(Decimal("0.16") + Decimal("0.03"))  # Mallory's 777 s: 0.0259
    assert row["given_back"] == "0.02"
    page = operator.get("/margin").content.decode()
    assert "€0.03 from" in page
    assert month.get("/margin").status_code == 404
