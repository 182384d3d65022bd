"""The payments inside of an entry: who paid, with which words, and what the banks took."""

from collections.abc import Callable
from dataclasses import replace
from decimal import Decimal

from billing.sepa.statements import Entry, StatementRefused
from billing.sepa.xml import Node

Amount = Callable[[Node], Decimal]


def details(node: Node, whole: Entry, amount: Amount, signed: Amount) -> list[Entry]:
    """One entry for each payment of `node` (Ntry), together worth `whole`.

    A single payment takes the entry's amount. Of several, each takes its own, and what remains
    must be the charges. A batch without details stays whole, and says of how many it is.
    """
    payments = list(node.all("NtryDtls/TxDtls"))
    charges = _charges(node, amount)
    if len(payments) == 1:
        inner = charges or _charges(payments[0], amount)
        count = _count(node, 1)
        return [_paid(payments[0], replace(whole, charges=inner, batch_of=count))]
    amounts = [_own_amount(payment, whole, amount, signed) for payment in payments]
    if not payments or None in amounts:
        return [replace(whole, charges=charges, batch_of=_count(node, len(payments)))]
    parts = [
        _paid(payment, replace(whole, amount=each))
        for payment, each in zip(payments, amounts, strict=True)
        if each is not None
    ]
    rest = whole.amount - sum((part.amount for part in parts), Decimal(0))
    inners = [_charges(payment, amount) for payment in payments]
    if rest == 0:  # what a payment's charges are is within its own amount
        return [replace(part, charges=own) for part, own in zip(parts, inners, strict=True)]
    inner = charges or sum(inners, Decimal(0))
    if rest != -inner:
        raise StatementRefused(
            "batch_mismatch", f"a batch of {whole.amount} is {rest} off its payments and charges"
        )
    fee = replace(whole, amount=rest, remittance="charges", code="ACMT/CHRG", reversal=False)
    return [*parts, fee]


def _count(node: Node, payments: int) -> int:
    text = node.text("NtryDtls/Btch/NbOfTxs")
    return int(text) if text.isdecimal() and len(text) <= 15 else max(1, payments)


def _own_amount(payment: Node, whole: Entry, amount: Amount, signed: Amount) -> Decimal | None:
    """Version 08 has it in each payment, 02 among the amounts' details, if at all."""
    if payment.first("Amt") is not None and payment.text("CdtDbtInd"):
        return signed(payment)
    for path in ("Amt", "AmtDtls/TxAmt"):
        found = payment.first(path)
        if found is not None:
            value = amount(found)
            return value if whole.amount >= 0 else -value
    return None


def _charges(node: Node, amount: Amount) -> Decimal:
    """What the banks took off (negative if they gave back), in either version's form."""
    total = Decimal(0)
    for charge in node.all("Chrgs"):
        records = list(charge.all("Rcrd"))
        if not records and charge.first("Amt") is None:
            inner = charge.first("TtlChrgsAndTaxAmt")
            total += amount(inner) if inner is not None else 0
            continue
        for record in records or [charge]:
            if record.text("ChrgInclInd") not in ("false", "0"):
                given = record.text("CdtDbtInd") == "CRDT"
                total += -amount(record) if given else amount(record)
    return total


def _paid(payment: Node, entry: Entry) -> Entry:
    """The entry with what the payment tells: the other party is the debtor of what came in."""
    reason = payment.text("RtrInf/Rsn/Cd", "RtrInf/Rsn/Prtry")
    # Not every bank marks a return as a reversal, but all say why it came back.
    reversal = entry.reversal or payment.first("RtrInf") is not None
    came_in = (entry.amount >= 0) is not reversal
    side = "Dbtr" if came_in else "Cdtr"
    remittance = " ".join(filter(None, (each.own_text for each in payment.all("RmtInf/Ustrd"))))
    own = payment.text("Refs/AcctSvcrRef")
    return replace(
        entry,
        reference=payment.text("RmtInf/Strd/CdtrRefInf/Ref"),
        remittance=remittance or payment.text("AddtlTxInf") or entry.remittance,
        end_to_end=_given(payment.text("Refs/EndToEndId")),
        mandate=_given(payment.text("Refs/MndtId")),
        party_name=payment.text(f"RltdPties/{side}/Pty/Nm", f"RltdPties/{side}/Nm"),
        party_iban=payment.text(f"RltdPties/{side}Acct/Id/IBAN"),
        reversal=reversal,
        return_reason=reason,
        bank_reference=_given(own) or entry.bank_reference,
        code=bank_code(payment) or entry.code,
    )


def bank_code(node: Node) -> str:
    """What kind of movement it was in ISO's words, such as PMNT/RCDT/ESCT."""
    steps = ("Cd", "Fmly/Cd", "Fmly/SubFmlyCd")
    return "/".join(filter(None, (node.text(f"BkTxCd/Domn/{step}") for step in steps)))


def _given(text: str) -> str:
    return "" if text.upper() in ("NOTPROVIDED", "NONREF") else text
