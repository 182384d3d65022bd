"""Direct debits without a third party: mandates, the word to the debtor, and the file for the bank.

`announce` draws a debit for each open invoice of a customer that pays so, with amount and day; the
debtor is told at once. `collect` writes those whose day is near into one pain.008 file. The
statement then says which were paid and which came back, and opens those invoices again.
"""

import hashlib
import logging
from datetime import UTC, date, datetime, timedelta

from django.db import transaction

from billing import errors
from billing.invoices.models import Collection as How
from billing.invoices.models import Entity, Invoice, InvoiceKind, InvoiceState
from billing.models import Account
from billing.payments.models import CollectionFile, Debit, DebitMandate, DebitState
from billing.payments.statements import euro
from billing.sepa import mandates, pain008, reference
from billing.sepa.accounts import InvalidAccount, bic, iban
from billing.sepa.latin import latin
from billing.sepa.mandates import DebitRefused, Mandate, Scheme
from compliance import audit

log = logging.getLogger(__name__)
AHEAD = timedelta(days=14)  # a bank takes no file for a later day


def create_mandate(
    account_id: str,
    *,
    reference: str,
    signed_on: date,
    debtor_name: str,
    debtor_iban: str,
    actor: audit.Actor,
    now: datetime,
    debtor_bic: str = "",
    scheme: str = "CORE",
    recurrent: bool = True,
    notice_days: int = mandates.NOTICE_DAYS,
) -> DebitMandate:
    """What the debtor signed; it takes the place of the account's mandate before.

    Raises errors.PaymentRefused for what no file could name.
    """
    account = Account.objects.filter(pk=account_id).first()
    if account is None:
        raise errors.UnknownAccount(account_id)
    try:
        made = DebitMandate(
            account=account,
            reference=mandates.identifier(reference, "the mandate's reference"),
            signed_on=signed_on,
            debtor_name=latin(debtor_name, 70),
            debtor_iban=iban(debtor_iban),
            debtor_bic=bic(debtor_bic) if debtor_bic else "",
            scheme=Scheme(scheme),
            recurrent=recurrent,
            notice_days=notice_days,
            created_at=now,
        )
        as_signed(made).check(now.astimezone(UTC).date())
    except ValueError as error:  # and its kinds that say what is wrong
        raise errors.PaymentRefused(str(error), code="bad_mandate") from error
    if not 1 <= notice_days <= 30:
        raise errors.PaymentRefused("a debtor is told 1 to 30 days before", code="bad_mandate")
    with transaction.atomic():
        for before in DebitMandate.objects.filter(account=account, revoked_on=None):
            revoke_mandate(before, actor=actor, now=now)
        if DebitMandate.objects.filter(reference=made.reference).exists():
            raise errors.PaymentRefused("this reference is taken", code="bad_mandate")
        made.save(force_insert=True)
        _tell("mandate.create", "mandate", made.id, actor, now)
    return made


def revoke_mandate(mandate: DebitMandate, *, actor: audit.Actor, now: datetime) -> DebitMandate:
    """No debit is made by it from today on; what was announced is called off."""
    with transaction.atomic():
        mandate = DebitMandate.objects.select_for_update().get(pk=mandate.pk)
        if mandate.revoked_on is None:
            mandate.revoked_on = now.astimezone(UTC).date()
            mandate.save(update_fields=["revoked_on"])
            for debit in mandate.debit_set.filter(state=DebitState.ANNOUNCED):
                _cancel(debit, "the mandate was revoked")
            _tell("mandate.revoke", "mandate", mandate.id, actor, now)
    return mandate


def announce(*, actor: audit.Actor, now: datetime) -> list[Debit]:
    """A debit for every open invoice that has none; the caller tells each debtor, today."""
    due = (
        Invoice.objects.filter(
            state=InvoiceState.FINAL, account__customer__collection=How.DEBIT, currency="EUR"
        )
        .exclude(kind=InvoiceKind.CREDIT_NOTE)
        .exclude(debits__state__in=(DebitState.ANNOUNCED, DebitState.SENT, DebitState.RETURNED))
        .order_by("id")
    )
    made = []
    for invoice in due:
        mandate = DebitMandate.objects.filter(account=invoice.account_id, revoked_on=None).first()
        if mandate is not None and invoice.due > invoice.settled:
            made.append(_announce(invoice, mandate, actor, now))
    return made


def again(invoice_id: str, *, actor: audit.Actor, now: datetime) -> Debit:
    """A debit came back: a person has another one made. Raises errors.PaymentRefused."""
    invoice = Invoice.objects.filter(pk=invoice_id, state=InvoiceState.FINAL).first()
    if invoice is None:
        raise errors.PaymentRefused("the invoice is not open", code="not_open")
    mandate = DebitMandate.objects.filter(account=invoice.account_id, revoked_on=None).first()
    if mandate is None:
        raise errors.PaymentRefused("the customer has no mandate", code="no_mandate")
    if invoice.debits.filter(state__in=(DebitState.ANNOUNCED, DebitState.SENT)).exists():
        raise errors.PaymentRefused("a debit for it is under way", code="under_way")
    return _announce(invoice, mandate, actor, now)


def collect(
    *, actor: audit.Actor, now: datetime, entity_id: str | None = None
) -> list[CollectionFile]:
    """The files of all debits whose day is near: one for each entity that has any.

    What must not be sent is called off with its reason, and does not hold up the others.
    """
    made = []
    for entity in Entity.objects.filter(**({"id": entity_id} if entity_id else {})).order_by("id"):
        with transaction.atomic():
            if (file := _collect(entity, actor, now)) is not None:
                made.append(file)
    return made


def as_signed(row: DebitMandate) -> Mandate:
    return Mandate(
        row.reference,
        row.signed_on,
        row.debtor_name,
        row.debtor_iban,
        row.debtor_bic,
        Scheme(row.scheme),
        row.recurrent,
        row.last_collected,
        row.revoked_on,
        row.account_changed,
    )


def _announce(invoice: Invoice, mandate: DebitMandate, actor: audit.Actor, now: datetime) -> Debit:
    today = now.astimezone(UTC).date()
    with transaction.atomic():
        count = invoice.debits.count()
        debit = Debit.objects.create(
            invoice=invoice,
            mandate=mandate,
            # An invoice's number, which every bank takes; the second try is another debit.
            end_to_end=f"{invoice.label}-{count + 1}" if count else invoice.label,
            amount=invoice.due - invoice.settled,
            notified_on=today,
            collect_on=mandates.collection_day(today, today, mandate.notice_days),
        )
        _tell("debit.announce", "debit", debit.id, actor, now)
    return debit


def _collect(entity: Entity, actor: audit.Actor, now: datetime) -> CollectionFile | None:
    today = now.astimezone(UTC).date()
    rows = (
        Debit.objects.select_for_update(of=("self",))
        .select_related("invoice", "mandate")
        .filter(invoice__entity=entity, state=DebitState.ANNOUNCED, collect_on__lte=today + AHEAD)
        .order_by("id")
    )
    creditor = pain008.Creditor(entity.name, entity.iban, entity.creditor_id, entity.bic)
    message = f"DD-{entity.id[-8:].upper()}-{now:%y%m%d%H%M%S}"
    ready: dict[str, tuple[Debit, pain008.Collection]] = {}
    firsts: set[str] = set()
    for debit in rows:
        collection = _collection(debit)
        why = _why_not(debit) or _refusal(message, now, creditor, collection)
        if why:
            _cancel(debit, why)
            log.warning("debit %s is not collected: %s", debit.end_to_end, why)
        elif collection.mandate.last_collected is None and debit.mandate_id in firsts:
            continue  # a first debit is made once; the others follow when it is settled
        else:
            firsts.add(debit.mandate_id)
            ready[debit.id] = debit, collection
    if not ready:
        return None
    content = pain008.write(message, now, creditor, [one for _, one in ready.values()])
    file = CollectionFile.objects.create(
        entity=entity,
        message=message,
        content=content,
        sha256=hashlib.sha256(content).hexdigest(),
        debits=len(ready),
        amount=sum(debit.amount for debit, _ in ready.values()),
        created_at=now,
        created_by=actor.id,
    )
    Debit.objects.filter(id__in=ready).update(state=DebitState.SENT, file=file)
    _tell(
        "debit.collect",
        "collection",
        file.id,
        actor,
        now,
        audit.Change("sha256", None, file.sha256),
        audit.Change("debits", None, file.debits),
    )
    return file


def _collection(debit: Debit) -> pain008.Collection:
    return pain008.Collection(
        as_signed(debit.mandate),
        euro(debit.amount),
        debit.collect_on,
        debit.notified_on,
        debit.end_to_end,
        reference.make(debit.invoice.label),
    )


def _why_not(debit: Debit) -> str:
    """The debtor was told of another amount, or owes it no more."""
    invoice = debit.invoice
    if invoice.state != InvoiceState.FINAL:
        return f"the invoice is {invoice.state}"
    if invoice.due - invoice.settled != debit.amount:
        return "another amount is open than was announced"
    return ""


def _refusal(
    message: str, now: datetime, creditor: pain008.Creditor, collection: pain008.Collection
) -> str:
    try:
        pain008.write(message, now, creditor, [collection])
    except (DebitRefused, InvalidAccount) as error:
        return str(error)
    return ""


def _cancel(debit: Debit, why: str) -> None:
    debit.state, debit.because = DebitState.CANCELLED, why[:200]
    debit.save(update_fields=["state", "because"])


def _tell(
    action: str,
    kind: str,
    id: str,
    actor: audit.Actor,
    now: datetime,
    *change: audit.Change,
) -> None:
    audit.record(
        actor=actor,
        action=action,
        target=audit.Target(kind, id),
        log=audit.PLATFORM,
        now=now,
        change=change,
    )
