"""A document becomes bytes that never change: JSON, CII and PDF, judged before they are kept."""

import hashlib
from dataclasses import dataclass
from datetime import datetime

from billing import errors
from billing.einvoice import canonical, cii, facturx, rules, ubl, validate
from billing.einvoice.document import Invoice as Document
from billing.invoices.models import Form
from billing.models import Invoice, InvoiceFile
from billing.vat.retention import destroy_after
from compliance import sheet

KIND = "invoice"  # of the retention table


@dataclass(frozen=True)
class Frozen:
    """The forms of one document, and their SHA-256 in hexadecimal digits."""

    document: Document
    contents: dict[Form, bytes]

    @property
    def sums(self) -> dict[Form, str]:
        return {
            form: hashlib.sha256(content).hexdigest() for form, content in self.contents.items()
        }


def render(document: Document, at: datetime) -> Frozen:
    """All forms, none of them judged yet. Raises `errors.NotIssuable` for what cannot be set."""
    try:
        rules.check(document)
        xml = cii.write(document)
        pdf = facturx.render(document, xml, at)
    except (rules.Incomplete, sheet.Unsettable) as error:
        raise errors.NotIssuable("incomplete", str(error)) from error
    return Frozen(document, {Form.JSON: canonical.dumps(document), Form.CII: xml, Form.PDF: pdf})


def judge(xml: bytes) -> None:
    """The official schema and rules. Raises `errors.NotIssuable` with what they find, and
    `validate.Unavailable` where there is nothing to run the rules."""
    found = validate.schema(xml)
    found += [f"{one.rule}: {one.text}" for one in validate.schematron(xml) if one.flag == "fatal"]
    if found:
        raise errors.NotIssuable("rules_failed", "; ".join(found)[:500])


def store(invoice: Invoice, frozen: Frozen, country: str, now: datetime) -> None:
    """Keep each form until the retention of `country` ends. The invoice is final already."""
    until = destroy_after(country, KIND, invoice.issued_on or now.date())
    sums = frozen.sums
    InvoiceFile.objects.bulk_create(
        InvoiceFile(
            invoice=invoice,
            form=form,
            content=content,
            sha256=sums[form],
            keep_until=until,
            created_at=now,
        )
        for form, content in frozen.contents.items()
    )


def content(invoice: Invoice, form: Form) -> bytes:
    """Raises `errors.UnknownInvoice` where there is none: a draft, or one destroyed in
    time, and its `errors.Enclosed` where it is in the vault."""
    kept = InvoiceFile.objects.filter(invoice=invoice, form=form).first()
    if kept is None:
        raise errors.UnknownInvoice(f"{invoice.id} has no {form}")
    if kept.vault_key_id:
        raise errors.Enclosed(f"{invoice.id} is in the accounting vault")
    return bytes(kept.content)


def ubl_of(invoice: Invoice, profile: ubl.Profile) -> bytes:
    """UBL on demand, from the frozen document; raises `errors.NotIssuable` for what it lacks."""
    document = canonical.loads(content(invoice, Form.JSON))
    try:
        xml = ubl.write(document, profile)
    except rules.Incomplete as error:
        raise errors.NotIssuable("incomplete", str(error)) from error
    judge(xml)
    return xml
