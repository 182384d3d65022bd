"""What a month costs, on its page."""

import html
import re
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest
from django.test import Client
from django.utils import timezone

from billing import months
from billing.meters import usage
from billing.pricing import prices
from compliance import audit
from controlplane.endpoints import services as endpoints
from frontend import cost_views
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
    asked = used(alice, now, quantity=2_000_000, **tokens)
    usage.record(
        [
            used(alice, now, quantity=360_000, **hours),
            replace(asked, agent="agt_planner", run="run_1/run_2"),
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


def test_a_run_and_an_agent_lead_to_their_pages_and_files_to_the_place(
    month: Client, alice: House
) -> None:
    place = f"/projects/{alice.project.id}/runs/"
    assert f'href="{place}run_1"' in page(month, "?by=run")
    assert place not in page(month, "?by=run&whole=1")
    text, now = page(month), timezone.now()
    exports = re.findall(r'href="(/api/v1/cost-exports[^"]*)"', text)
    assert len(exports) == 3
    for link in exports:
        link = html.unescape(link)
        assert f"month={now:%Y-%m}" in link
        assert ("project=" in link) == ("as=focus" not in link)
        answer: Any = month.get(link)
        assert b"agt_planner" in b"".join(answer.streaming_content) or "as=focus" in link


def test_a_month_before_is_shown_without_a_forecast(month: Client, alice: House) -> None:
    before = months.start_of(timezone.now()) - timedelta(days=1)
    usage.record([used(alice, before, meter="device_seconds", quantity=7, basis="charge")])
    text = page(month, f"?month={before:%Y-%m}")
    assert f"Costs in {before:%B %Y}<" in text
    assert "7 s of device time" in text  # before its price began
    assert "By the end of the month" not in text
    assert "By the end of the month" in page(month)


def test_many_rows_are_summed_up(
    month: Client, alice: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cost_views, "SHOWN", 1)
    event = used(alice, timezone.now(), meter="output_tokens", quantity=25_000, basis="attribution")
    usage.record([event])
    assert "And 1 more, together €0.01." in page(month, "?by=agent")


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
        ("?by=organization", [">alice<", "All of alice"]),
        ("?by=agent", [">agt_planner<", "no agent named"]),
        ("?by=run", [">run_1<", "no run named"]),
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
