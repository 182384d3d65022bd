"""Who owes and who issues, as people fill it in; what may stand there is billing's to say."""

from typing import Any

from django import forms

from billing.invoices import crediting, profiles
from billing.invoices.models import Collection, CustomerKind, Issuer
from billing.models import Customer, Entity

_PROOFS = [("", "none"), *((one, one.replace("_", " ")) for one in profiles.PROOFS)]
_KINDS = [
    (CustomerKind.BUSINESS, "a business"),
    (CustomerKind.LEGAL_PERSON, "an authority or other legal person"),
]
_HOW = [
    (Collection.TRANSFER, "we pay by bank transfer"),
    (Collection.DEBIT, "you collect by SEPA direct debit"),
    (Collection.STRIPE, "you collect by Stripe"),
]


def _text(
    length: int, label: str = "", *, required: bool = False, hint: str = ""
) -> forms.CharField:
    return forms.CharField(
        max_length=length, label=label or None, required=required, help_text=hint
    )


class ProfileForm(forms.Form):
    """The billing profile of an organization."""

    legal_name = _text(200, "Legal name", required=True)
    street = _text(200, "Street and number", required=True)
    extra = _text(200, "More of the address")
    postcode = _text(20)
    city = _text(100, required=True)
    country = _text(2, required=True, hint="Two letters: DE, FR, CH; Greece is GR")
    region = _text(32, "Territory", hint="Only where no postcode tells it")
    vat_id = _text(20, "VAT number", hint="With its letters; checked at VIES before each invoice")
    registration = _text(100, "Register number")
    kind = forms.ChoiceField(label="We are", choices=_KINDS)
    contact = _text(100)
    email = forms.CharField(max_length=254, label="E-mail for invoices", required=False)
    electronic_address = _text(100, "Peppol address")
    electronic_scheme = _text(8, "Its scheme", hint="Such as 0204 for a Leitweg-ID")
    buyer_reference = _text(100, "Your reference", hint="The Leitweg-ID, where you have one")
    collection = forms.ChoiceField(label="Payment", choices=_HOW)
    proof_kind = forms.ChoiceField(
        label="Proof of being a business", choices=_PROOFS, required=False,
        help_text="For businesses outside of the EU",
    )  # fmt: skip
    proof_reference = _text(100, "Its number")
    proof_seen_on = forms.CharField(label="Its date", required=False, help_text="2026-03-31")
    proof_valid_until = forms.CharField(label="Valid until", required=False)

    @property
    def wanted(self) -> dict[str, Any]:
        data = dict(self.cleaned_data)
        proof = {
            name: data.pop(f"proof_{name}")
            for name in ("kind", "reference", "seen_on", "valid_until")
        }
        return {**data, "proof": {k: v for k, v in proof.items() if v} if proof["kind"] else {}}


class EntityForm(forms.Form):
    """The legal person that issues."""

    name = _text(200, "Legal name", required=True)
    street = _text(200, "Street and number", required=True)
    extra = _text(200, "More of the address")
    postcode = _text(20, required=True)
    city = _text(100, required=True)
    country = _text(2, required=True, hint="AT, DE, FI, IE, LU or NL")
    vat_id = _text(20, "VAT number", required=True)
    tax_number = _text(32, "Local tax number")
    registration = _text(100, "Register number")
    iban = _text(42, "IBAN")
    bic = _text(11, "BIC")
    creditor_id = _text(35, "SEPA creditor identifier")
    contact = _text(100)
    email = forms.CharField(max_length=254, label="E-mail", required=False)
    phone = _text(40)
    currency = _text(3, required=True)
    invoice_issuer = forms.ChoiceField(
        label="The legal invoice is made by", choices=Issuer.choices,
        help_text="One alone: two invoices for one supply owe its VAT twice",
    )  # fmt: skip
    payment_terms_days = forms.IntegerField(label="Days to pay", min_value=0, max_value=90)


class WhyForm(forms.Form):
    reason = forms.CharField(max_length=crediting.MAX_REASON)


def filled(row: Customer | None) -> dict[str, Any]:
    if row is None:
        return {"kind": CustomerKind.BUSINESS, "collection": Collection.TRANSFER}
    kept = {name: getattr(row, name) for name in profiles.PROFILE}
    return {**kept, **{f"proof_{name}": value for name, value in row.proof.items()}}


def issuing(row: Entity) -> dict[str, Any]:
    return {name: getattr(row, name) for name in profiles.ENTITY}
