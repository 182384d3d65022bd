"""Is a prepaid top-up taxed when it is paid, or when it is used?

A payment on account is chargeable on receipt when all that matters about the coming supply is
known (Art. 65; CJEU C-419/02 BUPA), as a voucher is single-purpose when place and VAT are known
(Art. 30a(2)). Else the balance is a multi-purpose credit and each use is taxed (Art. 30b(2)).
"""

from dataclasses import dataclass
from datetime import date
from enum import StrEnum

from billing.vat.canonical import canonical
from billing.vat.dates import invoice_due
from billing.vat.decision import Decision, Outcome


class Treatment(StrEnum):
    ADVANCE_INVOICE = "advance_invoice"
    MULTI_PURPOSE_CREDIT = "multi_purpose_credit"
    NO_CONSIDERATION = "no_consideration"
    HOLD = "hold"
    REFUSED = "refused"


@dataclass(frozen=True)
class TopUp:
    """`buys` has the decision for each kind of service that the balance can pay for.

    `specified`: contract and catalogue say what these services are. `free`: given, not paid.
    """

    received_on: date
    buys: tuple[Decision, ...]
    specified: bool = True
    free: bool = False


@dataclass(frozen=True)
class AdvanceDecision:
    """`decision` is the one that the advance invoice states; `due` is its last day."""

    treatment: Treatment
    because: str
    articles: tuple[str, ...]
    top_up: TopUp
    decision: Decision | None = None
    due: date | None = None

    def as_json(self) -> bytes:
        return canonical(self)


def advance(top_up: TopUp) -> AdvanceDecision:
    """Say how a top-up is treated, and why. Raises ValueError if it can buy nothing."""
    if not top_up.buys:
        raise ValueError("a balance that buys nothing is no payment on account")
    if top_up.free:
        because = "nothing was paid: a granted credit is a discount when it is used"
        return AdvanceDecision(
            Treatment.NO_CONSIDERATION, because, ("Art. 2(1)(c)", "Art. 79(b)"), top_up
        )
    for each in top_up.buys:
        if each.outcome is not Outcome.DECIDED:
            refused = each.outcome is Outcome.REFUSED
            return AdvanceDecision(
                Treatment.REFUSED if refused else Treatment.HOLD,
                each.because,
                each.articles,
                top_up,
            )
    return _known(top_up)


def _known(top_up: TopUp) -> AdvanceDecision:
    kinds = {(each.category, each.rate, each.place) for each in top_up.buys}
    if len(kinds) == 1 and top_up.specified:
        return AdvanceDecision(
            Treatment.ADVANCE_INVOICE,
            "all that the balance can buy is known and has one place, category and rate",
            ("Art. 65", "Art. 30a(2)", "Art. 220(1)(5)"),
            top_up,
            top_up.buys[0],
            invoice_due(top_up.received_on),
        )
    because = (
        "the balance can buy services of different VAT treatment"
        if len(kinds) > 1
        else "what the balance will buy is not specified"
    )
    articles = ("Art. 65", "Art. 30a(3)", "Art. 30b(2)")
    return AdvanceDecision(Treatment.MULTI_PURPOSE_CREDIT, because, articles, top_up)
