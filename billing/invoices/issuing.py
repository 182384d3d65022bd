"""From a draft in an open transaction to a final document: its number, its forms, its event."""

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime

from billing import tenants
from billing.einvoice.document import Invoice as Document
from billing.invoices import freezing, numbering, treatment
from billing.invoices.freezing import Frozen
from billing.invoices.models import Form, InvoiceState
from billing.models import Entity, Invoice
from compliance import audit

Build = Callable[[str], Document]  # the document under that number


def number_and_render(invoice: Invoice, build: Build, now: datetime) -> Frozen:
    """The forms with the number that the invoice has from now on.

    Setting and judging a document takes a while, and nobody else may number meanwhile: so it is
    done with the number to be expected, and again only where another one was quicker.
    """
    year = now.astimezone(UTC).year
    entity_id = invoice.entity_id
    invoice.series = series = numbering.current(entity_id, invoice.series, year)
    expected = numbering.expected(entity_id, series, year)
    frozen = freezing.render(build(numbering.label(series, year, expected)), now)
    freezing.judge(frozen.contents[Form.CII])
    invoice.number = numbering.draw(entity_id, series, year)
    invoice.year, invoice.label = year, numbering.label(series, year, invoice.number)
    if invoice.number != expected:
        frozen = freezing.render(build(invoice.label), now)
    return frozen


def freeze(
    invoice: Invoice,
    frozen: Frozen,
    entity: Entity,
    actor: audit.Actor,
    now: datetime,
    action: str,
    *,
    final_at: datetime | None = None,
) -> None:
    """Final from here on: the row, its files, and its event with their hashes. `final_at`: of one
    that was final before, and is put back."""
    document, sums = frozen.document, frozen.sums
    invoice.issued_on, invoice.due_on = document.issued, document.due
    invoice.json_sha256, invoice.xml_sha256 = sums[Form.JSON], sums[Form.CII]
    invoice.pdf_sha256 = sums[Form.PDF]
    invoice.held_reason = invoice.held_because = ""
    invoice.state, invoice.final_at = InvoiceState.FINAL, final_at or now
    invoice.save()
    if invoice.decision:
        frozen.contents[Form.DECISION] = treatment.canonical(invoice.decision)
    freezing.store(invoice, frozen, entity.country, now)
    if invoice.due == invoice.settled:
        invoice.state, invoice.paid_at = InvoiceState.PAID, now
        invoice.save(update_fields=["state", "paid_at"])
    record(
        invoice,
        actor,
        action,
        now,
        change=[
            audit.Change("number", None, invoice.label),
            audit.Change("gross", None, invoice.gross),
            audit.Change("currency", None, invoice.currency),
            audit.Change("vat", None, str(invoice.decision.get("reason", ""))),
            *(
                audit.Change(f"{form}_sha256", None, digest)
                for form, digest in sorted(frozen.sums.items())
            ),
        ],
    )


def record(
    invoice: Invoice,
    actor: audit.Actor,
    action: str,
    now: datetime,
    *,
    reason: str = "",
    change: Sequence[audit.Change] = (),
    personal: Mapping[str, str] | None = None,
) -> None:
    """In the log of the account's organization."""
    where = tenants.home(invoice.account_id)
    audit.record(
        actor=actor,
        action=action,
        target=audit.Target("invoice", invoice.id),
        log=where.log,
        region=where.region,
        now=now,
        reason=reason,
        change=change,
        personal=personal,
    )
