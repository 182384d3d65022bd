"""What a bank statement says, in a form that depends on no version of the message."""

from dataclasses import dataclass
from datetime import date
from decimal import Decimal


class StatementRefused(ValueError):
    """The file is not read, and nothing of it is booked. `code` is for programs."""

    def __init__(self, code: str, message: str) -> None:
        self.code = code
        super().__init__(message)


@dataclass(frozen=True)
class Entry:
    """One movement on the account, or one payment of a batch.

    `amount` in EUR: positive came in, negative went out. `key` is the same whenever the same
    movement is read again. `reversal`: the bank takes back an earlier movement; `return_reason`
    is then its ISO code. `charges` (positive) are part of `amount`, taken by the banks.
    `batch_of` is the number of payments in a sum that the bank did not take apart.
    """

    key: str
    account: str
    amount: Decimal
    booked_on: date
    value_on: date | None = None
    reversal: bool = False
    return_reason: str = ""
    charges: Decimal = Decimal(0)
    batch_of: int = 1
    reference: str = ""
    remittance: str = ""
    end_to_end: str = ""
    mandate: str = ""
    party_name: str = ""
    party_iban: str = ""
    bank_reference: str = ""
    code: str = ""

    @property
    def gross(self) -> Decimal:
        """What the other side paid, or took back: without the banks' charges."""
        return self.amount + self.charges


@dataclass(frozen=True)
class Statement:
    """Opening balance plus entries is the closing balance, where the file has both."""

    id: str
    sequence: str
    account: str
    opening: Decimal | None
    closing: Decimal | None
    entries: tuple[Entry, ...]
