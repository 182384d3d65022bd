"""Direct debit files: pain.008.001.08, the same bytes for the same debits.

No library writes it so: those that there are take the time and identifiers from the machine, so
that a file could not be made again. Tests validate it against the schema of ISO 20022.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from xml.etree.ElementTree import Element, SubElement, indent, tostring

from billing.sepa import target
from billing.sepa.accounts import bic, creditor_identifier, iban
from billing.sepa.latin import latin
from billing.sepa.mandates import DebitRefused, Mandate, Scheme, Sequence, identifier
from billing.sepa.reference import read as read_reference

NAMESPACE = "urn:iso:std:iso:20022:tech:xsd:pain.008.001.08"
_MOST = Decimal("999999999.99")
_CENT = Decimal("0.01")


@dataclass(frozen=True)
class Creditor:
    """Us. `identifier` is the one that the national bank gave."""

    name: str
    iban: str
    identifier: str
    bic: str = ""


@dataclass(frozen=True)
class Collection:
    """One debit of `amount` EUR on `collect_on`, of which the debtor was told on `notified_on`.

    `end_to_end` comes back in statements and returns; `reference` is the invoice's (ISO 11649).
    """

    mandate: Mandate
    amount: Decimal
    collect_on: date
    notified_on: date
    end_to_end: str
    reference: str


# What all debits of a block share.
_Key = tuple[Scheme, Sequence, date]


def write(
    message: str, created_at: datetime, creditor: Creditor, collections: Iterable[Collection]
) -> bytes:
    """The file, in one block for each scheme, sequence and day. `message` identifies it.

    Raises DebitRefused or InvalidAccount, and then nothing is written.
    """
    debits = list(collections)
    identifier(message, "the message's identifier")
    if len(message) > 29:  # a block adds a hyphen and its number
        raise DebitRefused("bad_identifier", f"{message!r} has more than 29 signs")
    if created_at.tzinfo is None:
        raise DebitRefused("bad_time", "the time of creation needs its zone")
    _check(debits, created_at.date())
    root = Element("Document", {"xmlns": NAMESPACE})
    body = SubElement(root, "CstmrDrctDbtInitn")
    header = SubElement(body, "GrpHdr")
    _leaf(header, "MsgId", message)
    _leaf(header, "CreDtTm", created_at.isoformat(timespec="seconds"))
    _sums(header, debits)
    _leaf(header, "InitgPty/Nm", _name(creditor.name))
    for number, (key, block) in enumerate(sorted(_blocks(debits).items()), 1):
        _block(SubElement(body, "PmtInf"), f"{message}-{number}", creditor, key, block)
    indent(root)
    written: bytes = tostring(root, encoding="utf-8", xml_declaration=True)
    return written + b"\n"


def _blocks(debits: list[Collection]) -> dict[_Key, list[Collection]]:
    blocks: dict[_Key, list[Collection]] = defaultdict(list)
    for debit in debits:
        key = (debit.mandate.scheme, debit.mandate.sequence(), debit.collect_on)
        blocks[key].append(debit)
    return blocks


def _check(debits: list[Collection], today: date) -> None:
    if not debits:
        raise DebitRefused("no_debits", "a file without debits")
    for debit in debits:
        _check_one(debit, today)
    for what, names in (
        ("end_to_end", [debit.end_to_end for debit in debits]),
        # A one-off mandate twice, or a first debit twice, would be returned by the bank.
        ("mandate", [d.mandate.reference for d in debits if d.mandate.sequence() != "RCUR"]),
    ):
        twice = [name for name, count in Counter(names).items() if count > 1]
        if twice:
            raise DebitRefused(f"{what}_twice", f"{twice[0]} stands twice in the file")


def _check_one(debit: Collection, today: date) -> None:
    identifier(debit.end_to_end, "the end-to-end identifier")
    read_reference(debit.reference)
    amount = debit.amount
    if not amount.is_finite() or not 0 < amount <= _MOST or amount != amount.quantize(_CENT):
        raise DebitRefused("bad_amount", f"{amount} EUR cannot be collected")
    if not target.is_open(debit.collect_on):
        raise DebitRefused("bank_closed", f"banks do not settle on {debit.collect_on}")
    if debit.collect_on < target.after(target.on_or_after(today), 1):
        raise DebitRefused(
            "too_late", f"{debit.collect_on} is less than a settling day from {today}"
        )
    if (debit.collect_on - today).days > 14:
        raise DebitRefused("too_early", f"{debit.collect_on} is more than 14 days from {today}")
    if debit.notified_on >= debit.collect_on:
        raise DebitRefused("not_notified", f"the debtor was told on {debit.notified_on} only")
    debit.mandate.check(debit.collect_on)


def _block(
    node: Element,
    name: str,
    creditor: Creditor,
    key: _Key,
    debits: list[Collection],
) -> None:
    scheme, sequence, collect_on = key
    _leaf(node, "PmtInfId", name)
    _leaf(node, "PmtMtd", "DD")
    # Each debit stands by itself in the statement, so that each finds its invoice.
    _leaf(node, "BtchBookg", "false")
    _sums(node, debits)
    kind = SubElement(node, "PmtTpInf")
    _leaf(kind, "SvcLvl/Cd", "SEPA")
    _leaf(kind, "LclInstrm/Cd", scheme.value)
    _leaf(kind, "SeqTp", sequence.value)
    _leaf(node, "ReqdColltnDt", collect_on.isoformat())
    _leaf(node, "Cdtr/Nm", _name(creditor.name))
    _leaf(node, "CdtrAcct/Id/IBAN", iban(creditor.iban))
    _agent(SubElement(node, "CdtrAgt"), creditor.bic)
    _leaf(node, "ChrgBr", "SLEV")
    other = _nested(node, "CdtrSchmeId/Id/PrvtId/Othr")
    _leaf(other, "Id", creditor_identifier(creditor.identifier))
    _leaf(other, "SchmeNm/Prtry", "SEPA")
    for debit in debits:
        _debit(SubElement(node, "DrctDbtTxInf"), debit)


def _debit(node: Element, debit: Collection) -> None:
    mandate = debit.mandate
    _leaf(node, "PmtId/EndToEndId", debit.end_to_end)
    _leaf(node, "InstdAmt", format(debit.amount, ".2f")).set("Ccy", "EUR")
    related = _nested(node, "DrctDbtTx/MndtRltdInf")
    _leaf(related, "MndtId", mandate.reference)
    _leaf(related, "DtOfSgntr", mandate.signed_on.isoformat())
    if mandate.account_changed and mandate.sequence() is Sequence.RECURRENT:
        _leaf(related, "AmdmntInd", "true")
        # "Same mandate, new debtor account": the schemes' word for a changed account.
        _leaf(related, "AmdmntInfDtls/OrgnlDbtrAcct/Id/Othr/Id", "SMNDA")
    _agent(SubElement(node, "DbtrAgt"), mandate.debtor_bic)
    _leaf(node, "Dbtr/Nm", _name(mandate.debtor_name))
    _leaf(node, "DbtrAcct/Id/IBAN", iban(mandate.debtor_iban))
    reference = _nested(node, "RmtInf/Strd/CdtrRefInf")
    _leaf(reference, "Tp/CdOrPrtry/Cd", "SCOR")
    _leaf(reference, "Ref", read_reference(debit.reference))


def _name(text: str) -> str:
    try:
        return latin(text, 70)
    except ValueError as error:
        raise DebitRefused("name_not_latin", str(error)) from error


def _agent(node: Element, code: str) -> None:
    if code:
        _leaf(node, "FinInstnId/BICFI", bic(code))
    else:
        _leaf(node, "FinInstnId/Othr/Id", "NOTPROVIDED")


def _sums(node: Element, debits: list[Collection]) -> None:
    _leaf(node, "NbOfTxs", str(len(debits)))
    _leaf(node, "CtrlSum", format(sum((debit.amount for debit in debits), Decimal(0)), ".2f"))


def _nested(node: Element, path: str) -> Element:
    for step in path.split("/"):
        node = SubElement(node, step)
    return node


def _leaf(node: Element, path: str, text: str) -> Element:
    found = _nested(node, path)
    found.text = text
    return found
