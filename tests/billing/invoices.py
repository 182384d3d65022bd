"""Entities, customers and invoices for tests of billing, past every verb."""

import hashlib
from collections.abc import Callable
from datetime import UTC, date, datetime
from typing import Any

from django.db import transaction

from billing import services
from billing.invoices import numbering
from billing.meters import usage
from billing.models import Account, Customer, Entity, Invoice, InvoiceFile, InvoiceLine
from billing.vat.numbers import VatNumber
from billing.vat.vies_answer import ViesAnswer, ViesOutcome
from tests.billing.events import MONTH, seconds

END = datetime(2026, 4, 1, tzinfo=UTC)
NEXT = datetime(2026, 4, 4, 6, 0, tzinfo=UTC)  # the grace time is over
ISSUED = NEXT.date()

ISSUER = {
    "name": "Stoa Compute GmbH",
    "street": "Beispielstraße 1",
    "postcode": "10115",
    "city": "Berlin",
    "country": "DE",
    "vat_id": "DE136695976",
    "registration": "HRB 1234 B",
    "iban": "DE89370400440532013000",
    "contact": "Billing",
    "email": "billing@stoa.example",
    "phone": "+49 30 1234567",
}
BUYER = {
    "legal_name": "Ada's agents GmbH",
    "street": "Hauptstraße 5",
    "postcode": "20095",
    "city": "Hamburg",
    "country": "DE",
}


def entity(**fields: Any) -> Entity:
    named: dict[str, Any] = {**ISSUER, "created_at": MONTH}
    return Entity.objects.create(**named | fields)


def customer(account: Account, of: Entity, **fields: Any) -> Customer:
    named: dict[str, Any] = {**BUYER, "created_at": MONTH, "updated_at": MONTH}
    return Customer.objects.create(account=account, entity=of, **named | fields)


def draft(account: Account, of: Entity, **fields: Any) -> Invoice:
    """Ten euros and the zero egress line, with 19 % VAT."""
    named: dict[str, Any] = {
        "kind": "invoice",
        "series": "INV",
        "period_start": MONTH,
        "period_end": END,
        "currency": "EUR",
        "net": 1000,
        "vat": 190,
        "gross": 1190,
        "due": 1190,
        "drafted_at": NEXT,
    }
    made = Invoice.objects.create(account=account, entity=of, **named | fields)
    for position, (kind, amount) in enumerate((("usage", made.net), ("egress", 0)), 1):
        InvoiceLine.objects.create(
            invoice=made,
            position=position,
            kind=kind,
            unit_amount=0,
            unit_size=3600,
            quantity=1,
            exact=f"{amount}/100",
            amount=amount,
            start=MONTH,
            end=END,
        )
    return made


def freeze(invoice: Invoice, *, issued: date = ISSUED, number: int = 0) -> Invoice:
    """Makes a draft final with files of a few bytes, as the database wants it and no more."""
    contents = {form: f"{form} of {invoice.id}".encode() for form in ("json", "cii", "pdf")}
    sums = {form: hashlib.sha256(content).hexdigest() for form, content in contents.items()}
    with transaction.atomic():
        invoice.number = number or numbering.draw(invoice.entity_id, invoice.series, issued.year)
        invoice.label = numbering.label(invoice.series, issued.year, invoice.number)
        invoice.year, invoice.issued_on, invoice.due_on = issued.year, issued, issued
        invoice.state, invoice.final_at = "final", NEXT
        invoice.json_sha256, invoice.xml_sha256 = sums["json"], sums["cii"]
        invoice.pdf_sha256 = sums["pdf"]
        invoice.save()
        for form, content in contents.items():
            InvoiceFile.objects.create(
                invoice=invoice,
                form=form,
                content=content,
                sha256=sums[form],
                keep_until=date(2036, 12, 31),
                created_at=NEXT,
            )
    return invoice


def answers(outcome: str = "valid", **fields: Any) -> Callable[..., ViesAnswer]:
    """A VIES that says the same of each number, now."""

    def ask(number: VatNumber, requester: VatNumber, name: str) -> ViesAnswer:
        named = {"consultation_number": "WAPIAAAA1" if outcome == "valid" else ""} | fields
        at = named.pop("checked_at", NEXT)
        return ViesAnswer(ViesOutcome(outcome), str(number), str(requester), at, **named)

    return ask


def served(account: Account, start: datetime = MONTH, seconds_: int = 3600, **fields: Any) -> None:
    """So many CPU-seconds from `start` on, accrued."""
    usage.record([seconds(account, start, seconds_, **fields)])
    accrue(account, start)


def accrue(account: Account, at: datetime) -> None:
    hour = services.hour_start(at)
    services.accrue(account.id, hour, now=hour + services.HOUR)
