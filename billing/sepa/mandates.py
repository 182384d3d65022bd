"""Direct debit mandates, and the days between telling a debtor and having the money for good."""

import re
from dataclasses import dataclass
from datetime import date, timedelta
from enum import StrEnum

from dateutil.relativedelta import relativedelta

from billing.sepa import target
from billing.sepa.accounts import EEA, bic, iban

# Told so many days before, unless the contract says fewer (SEPA rulebooks, 4.3.4).
NOTICE_DAYS = 14
_TEXT = re.compile(r"[A-Za-z0-9+?/:().,' -]+")


class DebitRefused(ValueError):
    """This debit is not sent. `code` is for programs."""

    def __init__(self, code: str, message: str) -> None:
        self.code = code
        super().__init__(message)


class Scheme(StrEnum):
    """CORE: refunded on demand for eight weeks. B2B: never, but the debtor's bank must know it."""

    CORE = "CORE"
    B2B = "B2B"


class Sequence(StrEnum):
    FIRST = "FRST"
    RECURRENT = "RCUR"
    ONE_OFF = "OOFF"


@dataclass(frozen=True)
class Mandate:
    """What the debtor signed.

    `last_collected` is the day of the last debit that was settled, returned later or not.
    `account_changed`: the debtor's account is another than at the last debit.
    """

    reference: str
    signed_on: date
    debtor_name: str
    debtor_iban: str
    debtor_bic: str = ""
    scheme: Scheme = Scheme.CORE
    recurrent: bool = True
    last_collected: date | None = None
    revoked_on: date | None = None
    account_changed: bool = False

    def sequence(self) -> Sequence:
        if not self.recurrent:
            return Sequence.ONE_OFF
        return Sequence.RECURRENT if self.last_collected else Sequence.FIRST

    def check(self, collect_on: date) -> None:
        """Raises DebitRefused, or InvalidAccount, if it allows no debit on that day."""
        identifier(self.reference, "the mandate's reference")
        account = iban(self.debtor_iban)
        if account[:2] not in EEA:
            because = f"accounts in {account[:2]} need the debtor's address, which is not built"
            raise DebitRefused("account_outside_eea", because)
        if self.debtor_bic:
            bic(self.debtor_bic)
        if self.signed_on > collect_on:
            raise DebitRefused("mandate_not_signed", f"signed on {self.signed_on} only")
        if self.revoked_on is not None and self.revoked_on <= collect_on:
            raise DebitRefused("mandate_revoked", f"revoked on {self.revoked_on}")
        if not self.recurrent and self.last_collected:
            raise DebitRefused("mandate_used", f"for one debit, made on {self.last_collected}")
        ends = (self.last_collected or self.signed_on) + relativedelta(months=36)
        if collect_on > ends:
            raise DebitRefused("mandate_expired", f"unused since 36 months: ended on {ends}")


def identifier(text: str, what: str) -> str:
    """A reference in the signs that every bank takes, 35 at most. Raises DebitRefused."""
    fine = _TEXT.fullmatch(text) and len(text) <= 35 and "//" not in text
    if not fine or text != text.strip() or text.startswith("/") or text.endswith("/"):
        raise DebitRefused("bad_identifier", f"{what} {text!r} is not 1 to 35 SEPA signs")
    return text


def collection_day(
    notified_on: date, submitted_on: date, notice_days: int = NOTICE_DAYS, lead_days: int = 1
) -> date:
    """The first day on which a debit may be collected.

    The debtor was told `notice_days` before (1 at least), and the file is with our bank
    `lead_days` settling days before: 1 by the rulebook, more where the bank says so.
    """
    if notice_days < 1 or lead_days < 1:
        raise DebitRefused(
            "bad_notice", "a debtor is told, and the bank has the file, a day before"
        )
    told = target.on_or_after(notified_on + timedelta(days=notice_days))
    return max(told, target.after(target.on_or_after(submitted_on), lead_days))


def notify_by(collect_on: date, notice_days: int = NOTICE_DAYS) -> date:
    """The last day to tell the debtor of amount and day."""
    return collect_on - timedelta(days=notice_days)


def final_on(collected_on: date, scheme: Scheme) -> date:
    """The first day on which an authorised debit can come back no more.

    CORE: eight weeks of refunds. B2B: three settling days of returns. Without a mandate a debit
    comes back for thirteen months, whatever the scheme.
    """
    if scheme is Scheme.CORE:
        return collected_on + timedelta(weeks=8, days=1)
    return target.after(collected_on, 3) + timedelta(days=1)
