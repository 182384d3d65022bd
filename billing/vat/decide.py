"""The one decision: which VAT a service to a business bears. Pure; nothing is ever guessed.

All that is sold are services supplied electronically, whose place is where the business that
uses them is established (Art. 44). Sales to consumers would need the One Stop Shop and are off.
"""

from dataclasses import replace
from datetime import date
from decimal import Decimal

from billing.vat.countries import issuer_rule, languages, standard_rate, vat_prefix
from billing.vat.decision import Category, Decision, Inputs, Outcome
from billing.vat.notes import outside_scope, reverse_charge
from billing.vat.numbers import InvalidVatNumber, VatNumber, parse
from billing.vat.parties import Customer, CustomerKind, Evidence, Supplier
from billing.vat.proof import Gap, business_gap, number_of, outside_gap, vies_gap
from billing.vat.tables import UnknownRule
from billing.vat.territories import Place, locate, refusal_for


def decide(supplier: Supplier, customer: Customer, evidence: Evidence, on: date) -> Decision:
    """Judge one supply chargeable on that day. Never raises for what the parties are.

    The answer is kept with the invoice; a draft's answer goes into the final one's evidence as
    `drafted`, so that what has changed between them is found.
    """
    inputs = Inputs(supplier, customer, evidence, on)
    try:
        found = _judge(inputs)
    except UnknownRule as error:
        found = _refuse(inputs, "no_rule", str(error), "Art. 96")
    return _changed(found)


def _judge(inputs: Inputs) -> Decision:
    supplier, customer = inputs.supplier, inputs.customer
    issuer = _issuer(inputs)
    if isinstance(issuer, Decision):
        return issuer
    if customer.kind is CustomerKind.CONSUMER:
        return _no_consumers(inputs, "only businesses are sold to")
    place = locate(customer.country, customer.postcode, customer.region)
    why = place.refused or refusal_for(place, supplier.country)
    if why:
        refused = _refuse(inputs, "territory_refused", f"{place.name}: {why}", place.article)
        return replace(refused, territory=place.territory)
    if place.state is None:
        return _outside(inputs, place)
    if place.state == supplier.country:
        return _domestic(inputs, place, place.state)
    return _other_state(inputs, place, place.state, issuer)


def _issuer(inputs: Inputs) -> VatNumber | Decision:
    """The supplier's number, if it may issue at all."""
    supplier = inputs.supplier
    rule = issuer_rule(supplier.country, inputs.on)
    if not rule.allowed:
        because = f"invoices of {supplier.country} are not built: {rule.why}"
        return _refuse(inputs, f"issuer_{rule.status}", because, "Art. 218", "Art. 232")
    if supplier.small_enterprise:
        because = "the exemption of small enterprises is not built"
        return _refuse(inputs, "issuer_small_enterprise", because, "Art. 284")
    if locate(supplier.country, supplier.postcode).territory:
        because = "a supplier in a special territory is not built"
        return _refuse(inputs, "issuer_territory", because, "Art. 6")
    try:
        number = parse(supplier.vat_number, supplier.country)
    except InvalidVatNumber as error:
        return _refuse(inputs, "issuer_number_malformed", str(error), "Art. 214", "Art. 226(3)")
    if number.prefix != vat_prefix(supplier.country):
        because = f"{number} is not a number of {supplier.country}"
        return _refuse(inputs, "issuer_number_foreign", because, "Art. 214", "Art. 226(3)")
    return number


def _domestic(inputs: Inputs, place: Place, state: str) -> Decision:
    number = number_of(inputs.customer, state)
    if isinstance(number, Gap):
        return _wait(inputs, number, "Art. 44")
    return Decision(
        outcome=Outcome.DECIDED,
        reason="domestic",
        because=f"both are established in {state}: the standard rate of {inputs.on}",
        articles=("Art. 44", "Art. 96", "Art. 193", *_own(place)),
        inputs=inputs,
        category=Category.STANDARD,
        rate=standard_rate(state, inputs.on),
        place=state,
        territory=place.territory,
        customer_number="" if number is None else str(number),
    )


def _other_state(inputs: Inputs, place: Place, state: str, issuer: VatNumber) -> Decision:
    number = number_of(inputs.customer, state)
    if number is None:
        if inputs.customer.kind is CustomerKind.LEGAL_PERSON:
            return _no_consumers(inputs, "a legal person without VAT number buys as a consumer")
        because = f"a business in {state} needs its VAT number on the invoice"
        return _wait(inputs, Gap("number_missing", because), "Art. 44", "Art. 226(4)")
    gap = number if isinstance(number, Gap) else vies_gap(inputs.evidence, number, issuer)
    if gap:
        return _wait(inputs, gap, "Art. 44", "Art. 196", "Reg. (EU) 282/2011 Art. 18(1)")
    own = ("Art. 43(2)",) if inputs.customer.kind is CustomerKind.LEGAL_PERSON else ()
    return Decision(
        outcome=Outcome.DECIDED,
        reason="reverse_charge",
        because=f"taxed in {state}; VIES proved {number}, the customer owes the VAT",
        articles=("Art. 44", "Art. 196", "Art. 226(11a)", *own, *_own(place)),
        inputs=inputs,
        category=Category.REVERSE_CHARGE,
        rate=Decimal(0),
        place=state,
        territory=place.territory,
        notes=reverse_charge((*languages(state), *languages(inputs.supplier.country))),
        vatex="VATEX-EU-AE",
        customer_number=str(number),
        listed=True,
    )


def _outside(inputs: Inputs, place: Place) -> Decision:
    proof = inputs.evidence.proof
    gap = business_gap(proof, inputs.on) or outside_gap(inputs.customer, place.mother)
    if gap:
        return _wait(inputs, gap, "Art. 44", "Reg. (EU) 282/2011 Art. 18(3)", *_own(place))
    where = place.name or place.country
    return Decision(
        outcome=Outcome.DECIDED,
        reason="outside_scope",
        because=f"{where} lies outside the VAT territory for services",
        articles=("Art. 44", "Reg. (EU) 282/2011 Art. 18(3)", *_own(place)),
        inputs=inputs,
        category=Category.OUTSIDE_SCOPE,
        place=place.country,
        territory=place.territory,
        notes=outside_scope(),
        vatex="VATEX-EU-O",
        customer_number=inputs.customer.vat_number.strip(),
    )


def _changed(found: Decision) -> Decision:
    """Hold a decision that is another than the draft's: a person looks before it is final."""
    before = found.inputs.evidence.drafted
    after = found.drafted()
    if before is None or after is None:
        return found
    same = (before.category, before.rate, before.customer_number)
    if same == (after.category, after.rate, after.customer_number):
        return found
    because = (
        f"the draft had {before.category} {before.rate} {before.customer_number}".rstrip()
        + f", now it is {after.category} {after.rate} {after.customer_number}".rstrip()
        + ": make the draft anew"
    )
    return _wait(found.inputs, Gap("changed_since_draft", because), *found.articles)


def _own(place: Place) -> tuple[str, ...]:
    return (place.article,) if place.article else ()


def _no_consumers(inputs: Inputs, because: str) -> Decision:
    because = f"{because} (the One Stop Shop is off)"
    return _refuse(inputs, "consumer_sales_off", because, "Art. 45", "Art. 58", "Art. 59c")


def _refuse(inputs: Inputs, reason: str, because: str, *articles: str) -> Decision:
    return Decision(Outcome.REFUSED, reason, because, articles, inputs)


def _wait(inputs: Inputs, gap: Gap, *articles: str) -> Decision:
    return Decision(Outcome.PENDING, gap.reason, gap.because, articles, inputs)
