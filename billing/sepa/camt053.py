"""Bank statements: camt.053.001.02 and .08 become entries, which add up to the balances.

A batch that the bank took apart becomes one entry for each payment; what its charges took off is
an entry of its own, so that nothing of the sum is lost. Only booked movements in EUR are read.
"""

import hashlib
import re
from collections import Counter
from dataclasses import dataclass, replace
from datetime import date
from decimal import Decimal

from billing.sepa.accounts import InvalidAccount, iban
from billing.sepa.camt_details import bank_code, details
from billing.sepa.statements import Entry, Statement, StatementRefused
from billing.sepa.xml import Node, parse

_NAMESPACE = re.compile(r"urn:iso:std:iso:20022:tech:xsd:(camt\.\d{3}\.\d{3}\.\d{2})")
VERSIONS = ("camt.053.001.02", "camt.053.001.08")
_AMOUNT = re.compile(r"[0-9]{1,18}(\.[0-9]{1,5})?")
_CENT = Decimal("0.01")
# What banks write where they have no reference.
_NO_REFERENCE = frozenset({"", "NONREF", "NOTPROVIDED", "NOT PROVIDED"})


def read(data: bytes) -> list[Statement]:
    """All statements of a file, or none: StatementRefused says what is wrong with it."""
    namespace, root = parse(data)
    named = _NAMESPACE.fullmatch(namespace)
    if not named or named[1] not in VERSIONS:
        known = " and ".join(VERSIONS)
        raise StatementRefused("unknown_message", f"{namespace} is not read, only {known}")
    found = [_statement(node) for node in root.all("BkToCstmrStmt/Stmt")]
    if not found:
        raise StatementRefused("no_statement", "the file has no statement")
    return found


def amount(node: Node) -> Decimal:
    """The amount in `Amt` or of the node itself, unsigned. Foreign currency is refused."""
    inner = node.first("Amt") or node
    text, currency = inner.own_text, inner.attribute("Ccy")
    if currency != "EUR":
        raise StatementRefused("foreign_currency", f"{text} {currency or '(no currency)'}: not EUR")
    if not _AMOUNT.fullmatch(text):
        raise StatementRefused("bad_amount", f"{text!r} is no amount")
    value = Decimal(text)
    if value != value.quantize(_CENT):
        raise StatementRefused("bad_amount", f"{text} EUR has more than two decimals")
    return value.quantize(_CENT)


def signed(node: Node) -> Decimal:
    """The amount as it moved the account: positive for CRDT, negative for DBIT."""
    direction = node.text("CdtDbtInd")
    if direction not in ("CRDT", "DBIT"):
        raise StatementRefused("bad_direction", f"{direction!r} is neither CRDT nor DBIT")
    return amount(node) if direction == "CRDT" else -amount(node)


def day(node: Node, path: str) -> date | None:
    text = node.text(f"{path}/Dt", f"{path}/DtTm")
    try:
        # As it is written there: a zone does not move the bank's day.
        return date.fromisoformat(text[:10]) if text else None
    except ValueError as error:
        raise StatementRefused("bad_date", f"{text!r} is no date") from error


def _statement(node: Node) -> Statement:
    account = _account(node)
    name = node.text("Id")
    parts = [part for entry in node.all("Ntry") for part in _entry(entry, account)]
    entries = _keyed(parts, name)
    opening = _balance(node, "OPBD", "PRCD")
    closing = _balance(node, "CLBD")
    total = sum((entry.amount for entry in entries), Decimal(0))
    if opening is not None and closing is not None and opening + total != closing:
        raise StatementRefused(
            "balance_mismatch", f"{name}: {opening} and {total} do not make {closing}"
        )
    return Statement(name, node.text("ElctrncSeqNb"), account, opening, closing, entries)


def _account(node: Node) -> str:
    try:
        account = iban(node.text("Acct/Id/IBAN"))
    except InvalidAccount as error:
        raise StatementRefused("no_account", str(error)) from error
    currency = node.text("Acct/Ccy")
    if currency not in ("", "EUR"):
        raise StatementRefused("foreign_currency", f"{account} is kept in {currency}, not EUR")
    return account


def _balance(node: Node, *codes: str) -> Decimal | None:
    for balance in node.all("Bal"):
        if balance.text("Tp/CdOrPrtry/Cd") in codes:
            return signed(balance)
    return None


@dataclass(frozen=True)
class _Part:
    """An entry without its key, and what tells it from others of the same bank."""

    entry: Entry
    bank_reference: str


def _entry(node: Node, account: str) -> list[_Part]:
    """What one Ntry says: nothing while it is not booked."""
    if node.text("Sts/Cd", "Sts") != "BOOK":
        return []
    booked = day(node, "BookgDt")
    if booked is None:
        raise StatementRefused("bad_date", "a booked entry has no day")
    reference = node.text("AcctSvcrRef")
    whole = Entry(
        key="",
        account=account,
        amount=signed(node),
        booked_on=booked,
        value_on=day(node, "ValDt"),
        reversal=node.text("RvslInd") in ("true", "1"),
        bank_reference="" if reference.upper() in _NO_REFERENCE else reference,
        remittance=node.text("AddtlNtryInf"),
        code=bank_code(node),
    )
    return [_Part(each, each.bank_reference) for each in details(node, whole, amount, signed)]


def _keyed(parts: list[_Part], statement: str) -> tuple[Entry, ...]:
    """Give each entry a key that another reading of the same movement gives it again.

    Where the bank has no reference, the statement's own identifier stands for it. Entries that
    are alike in everything are counted.
    """
    seen: Counter[str] = Counter()
    found = []
    for part in parts:
        entry = part.entry
        facts = (
            *(entry.account, part.bank_reference or f"in {statement}", entry.booked_on.isoformat()),
            *(str(entry.amount), entry.end_to_end, entry.reference, entry.remittance),
            *(entry.party_iban, str(entry.reversal)),
        )
        alike = "\x1f".join(facts)
        seen[alike] += 1
        digest = hashlib.sha256(f"{alike}\x1f{seen[alike]}".encode()).hexdigest()
        found.append(replace(entry, key=digest[:32]))
    return tuple(found)
