"""The page that says what is billed, at which prices, and what is not."""

import re
from datetime import timedelta
from decimal import Decimal
from typing import Any

from django.test import Client
from django.utils import timezone

from billing import months
from billing.pricing import agreements, prices
from billing.pricing.terms import Allowance, Commitment, Tier
from compliance import audit
from controlplane.tenancy.models import Organization
from tests.api.house import House, signed_in


def page(client: Client, path: str = "/prices") -> str:
    answer = client.get(path)
    assert answer.status_code == 200
    return re.sub(r"\s+", " ", answer.content.decode())


def publish(amount: str, kind: str = "cpu", **fields: Any) -> None:
    now = timezone.now()
    named: dict[str, Any] = {"meter": "device_seconds", "valid_from": now, "now": now, **fields}
    prices.publish(actor=audit.SYSTEM, device_kind=kind, amount=Decimal(amount), **named)


def agree(organization: Organization, *terms: Allowance | Commitment | Tier) -> None:
    for term in terms:
        agreements.agree(
            actor=audit.SYSTEM,
            account_id=organization.account_id,
            term=term,
            now=timezone.now(),
        )


def test_it_says_what_is_billed_and_what_never_is(alice: House) -> None:
    client = signed_in(alice.owner)
    assert "No device has a price." in page(client)
    publish("2.4901")
    text = page(client)
    assert "€2.4901" in text and "<code>serving-hour/cpu</code>" in text
    for state in ("Queued", "Fetching", "Starting", "Draining", "Failed"):
        assert f"<dt>{state}</dt><dd>never billed</dd>" in text
    assert "<dt>Egress and ingress</dt><dd>€0.00" in text
    assert [strong(cell) for cell in cells(text)] == ["€2.4901", "as serving", "not billed"]
    publish("0.90", meter="warm_seconds")
    publish("0.15", meter="asleep_seconds")
    assert [strong(cell) for cell in cells(page(client))] == ["€2.4901", "€0.90", "€0.15"]


def cells(text: str) -> list[str]:
    """Serving, kept warm and asleep, of the only kind there is, side by side."""
    (row,) = re.findall(r"<th scope=\"row\">cpu</th>(.*?)</tr>", text)
    return re.findall(r"<td[^>]*>(.*?)</td>", row)


def strong(cell: str) -> str:
    (found,) = re.findall(r"<(?:strong|span class=\"faint\")>(.*?)</", cell)
    return str(found)


def test_an_organization_sees_its_own_prices_and_terms_alone(alice: House, mallory: House) -> None:
    now = timezone.now()
    publish("2.00")
    account = alice.organization.account
    publish("1.50", valid_from=now + timedelta(days=1), account_id=account.id)
    account.created_at = now
    account.save()
    start = months.start_of(now)
    agree(
        alice.organization,
        Allowance("", start, "device_seconds", "cpu", 7200, note="to begin with"),
        Commitment("", start, Decimal("1234.50")),
        Tier("", start, "device_seconds", 360_000, 125),
    )
    text = page(signed_in(alice.owner))
    assert "€1.50 from" in text
    assert "Free each month: 2 h 00 min of device time, cpu (to begin with)" in text
    assert "At least €1,234.50 a month" in text
    assert "Beyond 100 h 00 min of device time in a month: 12.5 % off" in text
    text = page(signed_in(mallory.owner))
    assert "€1.50" not in text and "Nothing beside these prices." in text
    costs = page(signed_in(alice.owner), "/costs")
    assert '<p id="forecast"><strong>€1,234.50</strong></p>' in costs
