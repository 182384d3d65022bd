"""What a month costs, on its page."""

import re
from datetime import datetime

import pytest
from django.test import Client
from django.utils import timezone

from billing.meters import usage
from billing.pricing import prices
from compliance import audit
from controlplane.endpoints import services as endpoints
from tests.api.house import House, signed_in


def used(house: House, at: datetime, *, meter: str, quantity: int, basis: str) -> usage.Event:
    charged = basis == "charge"
    return usage.Event(
        id=f"{house.organization.id}:{meter}:{quantity}",
        at=at,
        account_id=house.organization.account_id,
        project_id=house.project.id,
        key_id="" if charged else house.key_id,
        endpoint_id=house.endpoint.id,
        region="eu-de-1",
        device_kind="cpu" if charged else "",
        meter=meter,
        basis=basis,
        quantity=quantity,
    )


@pytest.fixture
def month(alice: House, mallory: House) -> Client:
    """Alice used 100 device-hours at 0.12, and two million output tokens at 0.40."""
    now = timezone.now()
    prices.publish_defaults(actor=audit.SYSTEM, now=now)
    hours = {"meter": "device_seconds", "basis": "charge"}
    tokens = {"meter": "output_tokens", "basis": "attribution"}
    usage.record(
        [
            used(alice, now, quantity=360_000, **hours),
            used(alice, now, quantity=2_000_000, **tokens),
            used(mallory, now, quantity=7_200_000, **hours),
        ]
    )
    return signed_in(alice.owner)


def page(client: Client, query: str = "") -> str:
    text = client.get(f"/costs{query}").content.decode()
    return re.sub(r"\s+", " ", text)


def test_owed_and_attributed_stand_apart(month: Client) -> None:
    text = page(month)
    assert '<dd id="owed">€12.00</dd>' in text
    assert "<dt>Attributed, not owed</dt><dd>€0.80</dd>" in text
    assert "100 h 00 min device time" in text
    assert "2,000,000 output tokens" in text
    assert "240" not in text  # Mallory's
    assert "€12.80" not in text


def test_egress_costs_nothing_and_says_so(month: Client) -> None:
    assert re.search(r"<th scope=\"row\">egress</th>.*?€0.00.*?€0.00", page(month))


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ("?by=key", ["no key: replicas&#x27; time", ">key<"]),
        ("?by=project", [">default<"]),
        ("?by=hour", [":00<"]),
        ("?by=endpoint&whole=1", [">chat<", "All of alice"]),
        ("?by=nonsense", [">chat<"]),
    ],
)
def test_groups_have_names(month: Client, query: str, words: list[str]) -> None:
    text = page(month, query)
    for word in words:
        assert word in text, word


def test_a_deleted_endpoint_keeps_its_name_on_the_bill(month: Client, alice: House) -> None:
    endpoints.delete(actor=audit.SYSTEM, endpoint=alice.endpoint, now=timezone.now())
    assert ">chat<" in page(month)


def test_usage_without_a_price_is_shown(alice: House) -> None:
    now = timezone.now()
    usage.record([used(alice, now, quantity=60, meter="device_seconds", basis="charge")])
    text = page(signed_in(alice.owner))
    assert "Used without a price" in text
    assert "chat: 1 min 00 s of device time (cpu)" in text
    assert '<dd id="owed">€0.00</dd>' in text


def test_less_than_a_cent_is_not_nothing(alice: House) -> None:
    now = timezone.now()
    prices.publish_defaults(actor=audit.SYSTEM, now=now)
    usage.record([used(alice, now, quantity=60, meter="device_seconds", basis="charge")])
    client = signed_in(alice.owner)
    assert '<dd id="owed">€0.002</dd>' in page(client)
    assert "€0.002" in client.get("/endpoints").content.decode()
