"""The VAT of an invoice: rows become what `vat.decide` judges, with VIES asked where it must be."""

from collections.abc import Callable
from datetime import date, datetime
from typing import Any

import httpx
from django.conf import settings
from django.utils import timezone

from billing.models import Customer, Entity
from billing.vat.canonical import canonical as canonical
from billing.vat.canonical import plain
from billing.vat.decide import decide as judge
from billing.vat.decision import Decision
from billing.vat.numbers import InvalidVatNumber, VatNumber, parse
from billing.vat.parties import BusinessProof, CustomerKind, Drafted, Evidence, Supplier
from billing.vat.parties import Customer as Buyer
from billing.vat.tables import UnknownRule
from billing.vat.territories import locate
from billing.vat.vies import ViesClient
from billing.vat.vies_answer import ViesAnswer

# The number asked about, in whose name, and the customer's name.
Ask = Callable[[VatNumber, VatNumber, str], ViesAnswer]


def ask_vies(number: VatNumber, requester: VatNumber, name: str) -> ViesAnswer:
    """One question to the Commission's service; trouble is an answer too."""
    with httpx.Client(trust_env=False) as http:
        return ViesClient(http, timezone.now, settings.VIES_URL).check(number, requester, name)


def decide(
    entity: Entity, customer: Customer, *, on: date, at: datetime, ask: Ask, before: Drafted | None
) -> Decision:
    """VIES is asked anew wherever its word would count. `before`: what the draft had decided."""
    evidence = Evidence(
        at=at,
        vies=_asked(entity, customer, ask),
        proof=_proof(customer),
        drafted=before,
        name_accepted_by=customer.name_accepted_by,
    )
    supplier = Supplier(entity.country, entity.vat_id, entity.postcode)
    buyer = Buyer(
        customer.country,
        CustomerKind(customer.kind),
        customer.vat_id,
        customer.postcode,
        customer.region,
    )
    return judge(supplier, buyer, evidence, on)


def as_kept(decision: Decision) -> dict[str, Any]:
    """As it stands in a column of JSON; exact, and back by `drafted`."""
    kept: dict[str, Any] = plain(decision)
    return kept


def drafted(kept: dict[str, Any]) -> Drafted | None:
    """What a kept decision had decided; None where it had not."""
    if kept.get("outcome") != "decided":
        return None
    evidence = kept["inputs"]["evidence"]
    return Drafted(
        category=kept["category"],
        rate=kept["rate"] or "",
        customer_number=kept["customer_number"],
        consultation_number=(evidence["vies"] or {}).get("consultation_number", ""),
        decided_at=datetime.fromisoformat(evidence["at"]),
    )


def _asked(entity: Entity, customer: Customer, ask: Ask) -> ViesAnswer | None:
    """Within the issuer's own state, and outside the Union, VIES proves nothing."""
    try:
        state = locate(customer.country, customer.postcode, customer.region).state
    except UnknownRule:
        return None
    if state in (None, entity.country) or not customer.vat_id.strip():
        return None
    try:
        number, requester = parse(customer.vat_id, state or ""), parse(entity.vat_id)
    except InvalidVatNumber:
        return None  # the decision says what is wrong with it
    return ask(number, requester, customer.legal_name)


def _proof(customer: Customer) -> BusinessProof | None:
    kept = customer.proof
    if not kept:
        return None
    until = kept.get("valid_until")
    return BusinessProof(
        kept["kind"],
        kept["reference"],
        date.fromisoformat(kept["seen_on"]),
        kept.get("document_sha256", ""),
        date.fromisoformat(until) if until else None,
    )
