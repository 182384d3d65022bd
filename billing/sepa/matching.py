"""Which invoice a movement on the account pays, or opens again. Pure; a person decides the rest.

What names an invoice, in this order: the direct debit that we sent, references and invoice
numbers in the remittance, and last a payer's known account with exactly the amount of one open
invoice. Nothing else is good enough.
"""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from decimal import Decimal
from enum import StrEnum

from billing.sepa.naming import Names
from billing.sepa.statements import Entry

_ZERO = Decimal("0.00")


class Outcome(StrEnum):
    """`OVER` leaves a rest that is the customer's. `OUTGOING` pays no invoice: fees, our payments.

    `DUPLICATE`: the same movement was read before, and nothing is to be booked.
    """

    EXACT = "exact"
    PARTIAL = "partial"
    OVER = "over"
    UNMATCHED = "unmatched"
    AMBIGUOUS = "ambiguous"
    RETURNED = "returned"
    DUPLICATE = "duplicate"
    OUTGOING = "outgoing"


@dataclass(frozen=True)
class Invoice:
    """`paid` of `total` has come in (EUR). `payers` are the customer's accounts that we know."""

    id: str
    number: str
    reference: str
    customer: str
    total: Decimal
    paid: Decimal = _ZERO
    payers: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Debit:
    """A direct debit that we sent for an invoice."""

    end_to_end: str
    invoice: str
    amount: Decimal
    returned: bool = False


@dataclass(frozen=True)
class Allocation:
    """So much of the entry is for that invoice; negative opens it again."""

    invoice: str
    amount: Decimal


@dataclass(frozen=True)
class Match:
    """Allocations and `rest` add up to what the other side paid or took back (`entry.gross`).

    `candidates` are the invoices that it may be for, where that is not clear.
    """

    entry: Entry
    outcome: Outcome
    because: str
    allocations: tuple[Allocation, ...] = ()
    rest: Decimal = _ZERO
    candidates: tuple[str, ...] = ()


class Matcher:
    """Takes entries one after the other, and knows what the earlier ones have paid.

    Give it every invoice that may be meant, the paid ones too, and that of each debit: ValueError
    names a debit without. `seen` has the keys of entries booked before.
    """

    def __init__(
        self,
        invoices: Iterable[Invoice],
        debits: Iterable[Debit] = (),
        seen: Iterable[str] = (),
    ) -> None:
        self._invoices = {each.id: each for each in invoices}
        self._names = Names(self._invoices.values())
        self._open = {each.id: each.total - each.paid for each in self._invoices.values()}
        self._by_payer: dict[str, list[str]] = defaultdict(list)
        for each in self._invoices.values():
            for account in each.payers:
                self._by_payer[account].append(each.id)
        self._debits = {each.end_to_end: each for each in debits}
        unknown = [each for each in self._debits.values() if each.invoice not in self._open]
        if unknown:
            raise ValueError(f"a debit for an invoice that is not given: {unknown[0].invoice}")
        self._returned = {each.end_to_end for each in self._debits.values() if each.returned}
        self._seen = set(seen)

    def match(self, entry: Entry) -> Match:
        if entry.key in self._seen:
            return Match(entry, Outcome.DUPLICATE, "this movement was read before")
        self._seen.add(entry.key)
        if entry.amount > 0 and not entry.reversal:
            found = self._incoming(entry)
        elif entry.reversal and entry.amount < 0:
            found = self._taken_back(entry)
        else:
            found = Match(entry, Outcome.OUTGOING, "no payment to us", rest=entry.gross)
        for each in found.allocations:
            self._open[each.invoice] -= each.amount
        return found

    def _incoming(self, entry: Entry) -> Match:
        debit = self._debits.get(entry.end_to_end)
        if debit is not None:
            return self._settle(entry, (debit.invoice,), "our direct debit")
        if entry.batch_of > 1:
            because = f"a sum of {entry.batch_of} payments that the bank did not take apart"
            return Match(entry, Outcome.UNMATCHED, because, rest=entry.gross)
        named = self._names.named_in(f"{entry.reference} {entry.remittance}")
        if named:
            return self._settle(entry, named, "named in the payment")
        return self._by_account(entry)

    def _settle(self, entry: Entry, ids: tuple[str, ...], because: str) -> Match:
        """Spread the payment over the invoices that it names, if that is clear."""
        owed = [(each, self._open[each]) for each in ids if self._open[each] > 0]
        due = sum((open_ for _, open_ in owed), _ZERO)
        if entry.gross < due and len(owed) > 1:
            because = f"{because}: {entry.gross} for {len(owed)} invoices of {due} together"
            return Match(entry, Outcome.AMBIGUOUS, because, rest=entry.gross, candidates=ids)
        if entry.gross < due:
            part = (Allocation(owed[0][0], entry.gross),)
            return Match(entry, Outcome.PARTIAL, f"{because}: {due} was open", part)
        full = tuple(Allocation(each, open_) for each, open_ in owed)
        if entry.gross == due:
            return Match(entry, Outcome.EXACT, because, full)
        told = f"{because}: {due} was open" if owed else f"{because}: paid before"
        return Match(entry, Outcome.OVER, told, full, entry.gross - due, ids)

    def _by_account(self, entry: Entry) -> Match:
        """No word helps: a known account and the very amount of one open invoice may."""
        known = self._by_payer.get(entry.party_iban, ()) if entry.party_iban else ()
        theirs = [each for each in known if self._open[each] > 0]
        same = tuple(each for each in theirs if self._open[each] == entry.gross)
        if len(same) == 1:
            return self._settle(entry, same, "the payer's account and the amount")
        if same:
            because = f"{len(same)} open invoices of the payer have this amount"
            return Match(entry, Outcome.AMBIGUOUS, because, rest=entry.gross, candidates=same)
        because = "the payer is known, the invoice is not" if theirs else "nothing names an invoice"
        return Match(entry, Outcome.UNMATCHED, because, rest=entry.gross, candidates=tuple(theirs))

    def _taken_back(self, entry: Entry) -> Match:
        """A debit that was returned, or a payment that the bank recalled."""
        debit = self._debits.get(entry.end_to_end)
        if debit is None:
            named = self._names.named_in(f"{entry.reference} {entry.remittance}")
            if len(named) == 1:
                return self._reopen(entry, named[0], "the bank took a payment back")
            because = "the bank took something back that names no single invoice"
            return Match(entry, Outcome.UNMATCHED, because, rest=entry.gross, candidates=named)
        if debit.end_to_end in self._returned:
            because = f"the debit {debit.end_to_end} was returned before"
            return Match(entry, Outcome.UNMATCHED, because, rest=entry.gross)
        if -entry.gross != debit.amount:
            because = f"returned are {-entry.gross} of a debit of {debit.amount}"
            return Match(
                entry, Outcome.AMBIGUOUS, because, rest=entry.gross, candidates=(debit.invoice,)
            )
        found = self._reopen(entry, debit.invoice, f"returned: {entry.return_reason or 'no code'}")
        if found.outcome is Outcome.RETURNED:
            self._returned.add(debit.end_to_end)
        return found

    def _reopen(self, entry: Entry, invoice: str, because: str) -> Match:
        paid = self._invoices[invoice].total - self._open[invoice]
        if -entry.gross > paid:
            told = f"{because}: {-entry.gross} taken back, of which {paid} had been paid"
            return Match(entry, Outcome.UNMATCHED, told, rest=entry.gross, candidates=(invoice,))
        return Match(entry, Outcome.RETURNED, because, (Allocation(invoice, entry.gross),))


def match(
    entries: Iterable[Entry],
    invoices: Iterable[Invoice],
    debits: Iterable[Debit] = (),
    seen: Iterable[str] = (),
) -> list[Match]:
    """Match entries in their order (see Matcher)."""
    matcher = Matcher(invoices, debits, seen)
    return [matcher.match(entry) for entry in entries]
