"""The accounting vault: invoices that the law wants kept of an organization that was erased.

Each file goes under a data key of the purpose `vault`, which an erasure does not destroy and which
stands until the file's own last day (31 December of its year and the period of the issuer's
country). From then on only an operator reads it, with a reason, and each time is an event. After
the last day the key is destroyed and the files go, unless a legal hold keeps them.
"""

import hashlib
from datetime import UTC, date, datetime

from django.db import transaction

from billing import errors, tenants
from billing.invoices import archive
from billing.invoices.models import Form
from billing.models import Invoice, InvoiceFile
from compliance import audit
from compliance.keys import boxes, destroying
from compliance.keys.models import DataKey
from compliance.privacy import holds
from compliance.privacy.retention import Held, Outcome
from compliance.sealing import SealBroken
from compliance.subjects import ORGANIZATION, Subject

MAX_REASON = 200


def enclose(account_id: str, subject: Subject, now: datetime) -> int:
    """Seal the account's files that are not yet; how many these were. In a transaction; repeated
    it does nothing. Raises kms.KmsAway."""
    with transaction.atomic():
        plain = InvoiceFile.objects.select_for_update().filter(
            invoice__account_id=account_id, vault_key_id=""
        )
        made: dict[date, DataKey] = {}
        files = list(plain.order_by("id"))
        for file in files:
            key = made.get(file.keep_until) or _key(subject, file.keep_until, now)
            made[file.keep_until] = key
            file.content = boxes.seal_under(
                key, bytes(file.content), subject=subject, context=_context(file)
            )
            file.vault_key_id = key.id
            file.save(update_fields=["content", "vault_key_id"])
    return len(files)


def read(*, actor: audit.Actor, invoice: Invoice, form: Form, reason: str, now: datetime) -> bytes:
    """What was frozen, out of the vault, with an event in the organization's log.

    That the actor may, is the caller's question. Raises errors.UnknownInvoice where it is not in
    the vault, errors.ReasonMissing, keys.KeyDestroyed, kms.KmsAway, sealing.SealBroken.
    """
    reason = " ".join(reason.split())
    if not 0 < len(reason) <= MAX_REASON:
        raise errors.ReasonMissing(f"say why, in 1 to {MAX_REASON} characters")
    file = InvoiceFile.objects.filter(invoice=invoice, form=form).exclude(vault_key_id="").first()
    if file is None:
        raise errors.UnknownInvoice(f"{invoice.id} has no {form} in the vault")
    home = tenants.home(invoice.account_id)
    subject = Subject(ORGANIZATION, home.log)
    content = boxes.unseal(file.content, subject=subject, context=_context(file))
    if hashlib.sha256(content).hexdigest() != file.sha256:
        raise SealBroken(_context(file))
    audit.record(
        actor=actor,
        action="vault.read",
        target=audit.Target("invoice", invoice.id),
        log=home.log,
        region=home.region,
        now=now,
        change=[audit.Change("form", None, str(form))],
        personal={"reason": reason},
    )
    return content


def end(*, now: datetime, before: datetime, held: Held, limit: int) -> Outcome:
    """Keys whose last day is over, with the files that they seal (`retention`)."""
    over = DataKey.objects.filter(
        purpose=DataKey.VAULT, destroyed_at=None, keep_until__lt=now.astimezone(UTC).date()
    )
    kept = holds.organizations(held)
    done = 0
    for key in over.exclude(subject_id__in=kept).order_by("id")[:limit]:
        sealed = InvoiceFile.objects.filter(vault_key_id=key.id).order_by("invoice_id")
        for invoice_id in sealed.values_list("invoice_id", flat=True).distinct():
            archive.destroy(invoice_id, actor=audit.SYSTEM, now=now)
        done += destroying.destroy_one(
            key=key, actor=audit.SYSTEM, reason_code="retention_over", now=now
        )
    return Outcome(done, over.filter(subject_id__in=kept).count(), more=done == limit)


def _key(subject: Subject, keep_until: date, now: datetime) -> DataKey:
    """The vault's key of that last day."""
    mine = DataKey.objects.filter(
        subject_kind=subject.kind,
        subject_id=subject.id,
        purpose=DataKey.VAULT,
        keep_until=keep_until,
        destroyed_at=None,
    )
    return mine.order_by("id").first() or boxes.create(subject, DataKey.VAULT, now, keep_until)


def _context(file: InvoiceFile) -> str:
    return f"vault:{file.invoice_id}:{file.form}"
