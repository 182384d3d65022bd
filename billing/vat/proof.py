"""Whether the proof at hand is enough: each gap has a name, and none is bridged by a guess."""

from dataclasses import dataclass
from datetime import date

from billing.vat.countries import vat_prefix
from billing.vat.numbers import InvalidVatNumber, VatNumber, parse
from billing.vat.parties import BusinessProof, Customer, Evidence
from billing.vat.vies_answer import ViesAnswer, ViesOutcome


@dataclass(frozen=True)
class Gap:
    """Why an invoice waits. `reason` for programs, `because` for people."""

    reason: str
    because: str


def number_of(customer: Customer, state: str) -> VatNumber | Gap | None:
    """The customer's number as one of `state`; None when none was given."""
    if not customer.vat_number.strip():
        return None
    try:
        number = parse(customer.vat_number, state)
    except InvalidVatNumber as error:
        return Gap("number_malformed", str(error))
    if number.prefix != vat_prefix(state):
        return Gap(
            "establishment_unclear",
            f"{number} is not a number of {state}: which establishment uses the service?",
        )
    return number


def outside_gap(customer: Customer, mother: str) -> Gap | None:
    """A number of a member state held by a business outside: does it act from there?

    A territory outside of the VAT territory shares its numbers with its `mother`; XI is no state.
    """
    try:
        number = parse(customer.vat_number)
    except InvalidVatNumber:
        return None
    if number.prefix == "XI" or (mother and number.prefix == vat_prefix(mother)):
        return None
    because = f"{number} is of a member state: does an establishment there use the service?"
    return Gap("establishment_unclear", because)


def vies_gap(evidence: Evidence, number: VatNumber, requester: VatNumber) -> Gap | None:
    """What is missing until VIES has proved `number` to `requester`; None when it has."""
    answer = evidence.vies
    if answer is None:
        return Gap("vies_missing", f"VIES has not been asked about {number}")
    if answer.number != str(number):
        return Gap("vies_other_number", f"VIES was asked about {answer.number}, not {number}")
    if answer.requester != str(requester):
        return Gap("vies_other_requester", f"VIES was asked for {answer.requester or 'nobody'}")
    if answer.checked_at > evidence.at:
        return Gap("vies_in_future", f"VIES was asked at {answer.checked_at.isoformat()}")
    if evidence.at - answer.checked_at > evidence.vies_max_age:
        return Gap("vies_stale", f"VIES was last asked at {answer.checked_at.isoformat()}")
    return _said(answer, evidence, number)


def _said(answer: ViesAnswer, evidence: Evidence, number: VatNumber) -> Gap | None:
    if answer.outcome is ViesOutcome.UNAVAILABLE:
        return Gap("vies_unavailable", f"VIES gave no answer: {answer.error}")
    if answer.outcome is ViesOutcome.REJECTED:
        return Gap("vies_rejected", f"VIES refused the question: {answer.error}")
    if answer.outcome is ViesOutcome.INVALID:
        before = evidence.drafted
        if before and before.category == "AE" and before.customer_number == str(number):
            return Gap(
                "vat_number_no_longer_valid",
                f"{number} was valid at the draft ({before.decided_at.isoformat()}, consultation"
                f" {before.consultation_number}) and is not any more",
            )
        return Gap("vat_number_not_valid", f"VIES does not know {number}")
    if not answer.consultation_number:
        return Gap("vies_unqualified", "VIES gave no consultation number")
    if answer.matches.get("name") == "INVALID" and not evidence.name_accepted_by:
        return Gap("name_mismatch", f"by VIES the name of {number} is another")
    return None


def business_gap(proof: BusinessProof | None, on: date) -> Gap | None:
    """What is missing until a customer outside the Union is shown to be a business."""
    if proof is None or not proof.reference.strip():
        return Gap("business_status_unproven", "nothing shows that the customer is a business")
    if proof.valid_until is not None and proof.valid_until < on:
        return Gap("business_proof_expired", f"the {proof.kind} ended on {proof.valid_until}")
    return None
