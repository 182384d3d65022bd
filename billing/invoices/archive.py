"""Files whose retention is over: told to the operator, who has them destroyed.

The invoice's row, its lines and the hashes in the audit log stay; what people and programs could
read of it goes. The database lets a file go only after `keep_until` (migration 0012).
"""

from dataclasses import dataclass
from datetime import UTC, date, datetime

from django.db import transaction
from django.db.models import Max, QuerySet, Sum
from django.db.models.functions import Length

from billing import tenants
from billing.invoices import issuing
from billing.models import Invoice, InvoiceFile
from compliance import audit
from compliance.privacy import holds
from compliance.subjects import ORGANIZATION, Subject


@dataclass(frozen=True)
class Due:
    """An invoice with files to be destroyed; `kept_until` is the last of their days."""

    invoice_id: str
    label: str
    account_id: str
    forms: tuple[str, ...]
    size: int  # bytes
    kept_until: date


def due(now: datetime, *, limit: int | None = None) -> list[Due]:
    """What may be destroyed, the oldest first."""
    rows = _over(now).values("invoice_id", "invoice__label", "invoice__account_id")
    rows = rows.annotate(size=Sum(Length("content")), until=Max("keep_until"))
    page = list(rows.order_by("until", "invoice_id")[:limit])
    forms: dict[str, list[str]] = {}
    for id, form in _over(now).order_by("form").values_list("invoice_id", "form"):
        forms.setdefault(id, []).append(form)
    return [
        Due(
            row["invoice_id"],
            row["invoice__label"],
            row["invoice__account_id"],
            tuple(forms.get(row["invoice_id"], ())),
            row["size"],
            row["until"],
        )
        for row in page
    ]


def destroy(invoice_id: str, *, actor: audit.Actor, now: datetime) -> int:
    """Delete the files of an invoice whose time is over; how many these were. Repeating it deletes
    nothing, and so does a legal hold on its organization. One event with the hash of each, in the
    log of the invoice's organization."""
    with transaction.atomic():
        if _held(invoice_id):
            return 0
        mine = _over(now).select_for_update().filter(invoice_id=invoice_id)
        files = list(mine.order_by("form").values_list("id", "form", "sha256"))
        if not files:
            return 0
        InvoiceFile.objects.filter(id__in=[id for id, _, _ in files]).delete()
        issuing.record(
            Invoice.objects.get(pk=invoice_id),
            actor,
            "archive.destroy",
            now,
            reason="retention_over",
            change=[audit.Change(f"{form}_sha256", digest, None) for _, form, digest in files],
        )
    return len(files)


def _held(invoice_id: str) -> bool:
    accounts = Invoice.objects.filter(id=invoice_id).values_list("account_id", flat=True)
    return any(holds.held(Subject(ORGANIZATION, tenants.home(account).log)) for account in accounts)


def _over(now: datetime) -> QuerySet[InvoiceFile]:
    return InvoiceFile.objects.filter(keep_until__lt=now.astimezone(UTC).date())
