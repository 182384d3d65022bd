"""Who issues and who owes: the operator's entity, and each account's billing profile."""

import re
from collections.abc import Mapping
from datetime import date, datetime

from django.db import transaction
from django.db.models import QuerySet
from stdnum import iban

from billing import errors, tenants
from billing.invoices.models import Collection, CustomerKind, InvoiceState, Issuer, Mode
from billing.models import Account, Customer, Entity, Invoice
from billing.vat.countries import issuer_rule, national_currency
from billing.vat.numbers import InvalidVatNumber, parse
from billing.vat.tables import UnknownRule
from billing.vat.territories import locate
from compliance import audit, sheet

PROFILE = (
    *("legal_name", "street", "extra", "postcode", "city", "region", "country", "vat_id"),
    *("registration", "kind", "contact", "email", "electronic_address", "electronic_scheme"),
    *("buyer_reference", "collection", "proof"),
)
TERMS = ("mode", "credit_limit", "name_accepted_by")  # the operator's to set
ENTITY = (
    *("name", "street", "extra", "postcode", "city", "country", "vat_id", "tax_number"),
    *("registration", "iban", "bic", "creditor_id", "contact", "email", "phone", "currency"),
    *("invoice_issuer", "payment_terms_days"),
)
PROOFS = ("certificate", "tax_number", "registry_extract")
_EMAIL = re.compile(r"[^@\s]+@[^@\s]+\.[^@\s]+")


# What a fresh installation begins with: visibly nobody, and refused as an issuer.
NOBODY = {
    "name": "Example operator (not set)",
    "street": "Example street 1",
    "postcode": "10115",
    "city": "Berlin",
    "country": "DE",
}


def entity(now: datetime) -> Entity:
    """The one that issues; a placeholder until the operator has filled it in."""
    found = Entity.objects.order_by("id").first()
    if found is None:
        found = Entity.objects.create(placeholder=True, created_at=now, **NOBODY)
    return found


def set_entity(
    fields: Mapping[str, object], *, actor: audit.Actor, now: datetime, id: str = ""
) -> Entity:
    """Fill in or change the issuer. Fields that are not there stay. Final invoices keep what they
    say. Raises `errors.ProfileRefused` naming the field."""
    _known(fields, ENTITY)
    with transaction.atomic():
        found = entity(now) if not id else Entity.objects.get(pk=id)
        found = Entity.objects.select_for_update().get(pk=found.pk)
        changed = _take(found, fields, ENTITY)
        _check_entity(found, now.date())
        found.placeholder = False
        found.save()
        _forget_decisions(Invoice.objects.filter(entity=found))
        audit.record(
            actor=actor,
            action="entity.update",
            target=audit.Target("entity", found.id),
            log=audit.PLATFORM,
            now=now,
            change=[audit.Change("fields", None, sorted(changed))],
        )
    return found


def set_profile(
    account_id: str,
    fields: Mapping[str, object],
    *,
    actor: audit.Actor,
    now: datetime,
    operator: bool = False,
) -> Customer:
    """Make or change an account's billing profile; fields that are not there stay.

    Drafts are decided anew for it. `operator` may set terms of payment as well. Raises
    `errors.ProfileRefused` naming the field, `errors.UnknownAccount`.
    """
    allowed = PROFILE + TERMS if operator else PROFILE
    _known(fields, allowed)
    with transaction.atomic():
        account = Account.objects.select_for_update().filter(pk=account_id).first()
        if account is None:
            raise errors.UnknownAccount(account_id)
        found = Customer.objects.select_for_update().filter(account=account).first()
        new = found is None
        if found is None:
            found = Customer(account=account, entity=entity(now), created_at=now)
        _one_currency(account, found.entity)
        changed = _take(found, fields, allowed)
        _check_profile(found)
        if not changed and not new:
            return found
        found.updated_at = now
        found.save()
        _forget_decisions(Invoice.objects.filter(account=account))
        where = tenants.home(account_id)
        # Names and addresses of a business, some of them a person's: which fields, not what.
        audit.record(
            actor=actor,
            action="billing_profile.update",
            target=audit.Target("account", account_id),
            log=where.log,
            region=where.region,
            now=now,
            change=[audit.Change("fields", None, sorted(changed))],
        )
    return found


def _forget_decisions(invoices: QuerySet[Invoice]) -> None:
    """What was decided for a draft was decided for another profile."""
    invoices.filter(state=InvoiceState.DRAFT).update(decision={}, held_reason="", held_because="")


def _known(fields: Mapping[str, object], allowed: tuple[str, ...]) -> None:
    for name in fields:
        if name not in allowed:
            raise errors.ProfileRefused(f"{name} is not yours to set", field=name)


def _take(row: Customer | Entity, fields: Mapping[str, object], names: tuple[str, ...]) -> set[str]:
    """Texts are trimmed and bounded by their columns; returns what is another now."""
    changed = set()
    for name in names:
        if name not in fields:
            continue
        value = fields[name]
        if isinstance(value, str):
            value = " ".join(value.split())
            limit = getattr(row._meta.get_field(name), "max_length", None)
            if limit is not None and len(value) > limit:
                raise errors.ProfileRefused(f"at most {limit} letters", field=name)
            if not value.isprintable():
                raise errors.ProfileRefused("control characters cannot be printed", field=name)
            if name in ("country", "vat_id", "iban", "bic", "currency"):
                value = value.replace(" ", "").upper()
        if getattr(row, name) != value:
            setattr(row, name, value)
            changed.add(name)
    return changed


def _check_profile(row: Customer) -> None:
    _filled(row, ("legal_name", "street", "city", "country"))
    _printable(row, ("legal_name", "street", "city"))
    _chosen("kind", row.kind, CustomerKind.values)
    _chosen("mode", row.mode, Mode.values)
    _chosen("collection", row.collection, Collection.values)
    _email("email", row.email)
    if bool(row.electronic_address) != bool(row.electronic_scheme):
        raise errors.ProfileRefused(
            "an electronic address needs its scheme, such as 0204", field="electronic_scheme"
        )
    try:
        place = locate(row.country, row.postcode, row.region)
    except UnknownRule as error:
        raise errors.ProfileRefused(str(error), field="country") from error
    if place.refused:
        raise errors.ProfileRefused(f"{place.name}: {place.refused}", field="country")
    if row.vat_id and place.state is not None:
        try:
            row.vat_id = str(parse(row.vat_id, place.state))
        except InvalidVatNumber as error:
            raise errors.ProfileRefused(str(error), field="vat_id") from error
    limit = row.credit_limit
    if limit is not None and (type(limit) is not int or not 0 <= limit < 2**53):
        raise errors.ProfileRefused("a limit is whole cents from 0 up", field="credit_limit")
    _check_proof(row)


def _one_currency(account: Account, issuer: Entity) -> None:
    """Told here, and not when the month ends."""
    if account.currency != issuer.currency:
        raise errors.ProfileRefused(
            f"the account is in {account.currency}, and {issuer.name} bills in {issuer.currency}"
            " alone: nothing is converted",
            field="country",
        )


def _check_proof(row: Customer) -> None:
    proof = row.proof
    if not isinstance(proof, dict):
        raise errors.ProfileRefused("a proof has kind, reference and seen_on", field="proof")
    if not proof:
        return
    if proof.get("kind") not in PROOFS or not str(proof.get("reference") or "").strip():
        raise errors.ProfileRefused(
            f"a proof has a kind ({', '.join(PROOFS)}) and its reference", field="proof"
        )
    if unknown := set(proof) - {"kind", "reference", "seen_on", "valid_until", "document_sha256"}:
        raise errors.ProfileRefused(f"unknown: {', '.join(sorted(unknown))}", field="proof")
    for name in ("seen_on", "valid_until"):
        if name == "valid_until" and not proof.get(name):
            continue
        try:
            date.fromisoformat(str(proof.get(name)))
        except ValueError as error:
            raise errors.ProfileRefused(f"{name} is a day: 2026-03-31", field="proof") from error


def _check_entity(row: Entity, on: date) -> None:
    _filled(row, ("name", "street", "postcode", "city", "country", "vat_id"))
    _printable(row, ("name", "street", "city"))
    _chosen("invoice_issuer", row.invoice_issuer, Issuer.values)
    _email("email", row.email)
    rule = issuer_rule(row.country, on)
    if not rule.allowed:
        raise errors.ProfileRefused(f"invoices of {row.country}: {rule.why}", field="country")
    try:
        row.vat_id = str(parse(row.vat_id, row.country))
    except InvalidVatNumber as error:
        raise errors.ProfileRefused(str(error), field="vat_id") from error
    if row.iban and not iban.is_valid(row.iban):
        raise errors.ProfileRefused(f"{row.iban} is no IBAN (ISO 13616)", field="iban")
    # In another one each document would owe its VAT in this one, too (Art. 91, 230): not built.
    if row.currency != (own := national_currency(row.country, on)):
        raise errors.ProfileRefused(f"an issuer in {row.country} bills in {own}", field="currency")
    days = row.payment_terms_days
    if type(days) is not int or not 0 <= days <= 90:
        raise errors.ProfileRefused("0 to 90 days", field="payment_terms_days")


def _filled(row: Customer | Entity, names: tuple[str, ...]) -> None:
    for name in names:
        if not getattr(row, name):
            raise errors.ProfileRefused("an invoice must say it (Art. 226)", field=name)


def _printable(row: Customer | Entity, names: tuple[str, ...]) -> None:
    for name in names:
        try:
            sheet.must_be_settable(getattr(row, name))
        except sheet.Unsettable as error:
            raise errors.ProfileRefused(str(error), field=name) from error


def _chosen(name: str, value: str, choices: list[str]) -> None:
    if value not in choices:
        raise errors.ProfileRefused(f"one of {', '.join(choices)}", field=name)


def _email(name: str, value: str) -> None:
    if value and not _EMAIL.fullmatch(value):
        raise errors.ProfileRefused("this is no e-mail address", field=name)
