"""What billing refuses. `code` is for programs, the message for people."""

from collections.abc import Iterable


class BillingError(Exception):
    code = "billing_error"


class UsageConflict(BillingError):
    """One id, two contents: nothing of the batch was kept. `ids` names the culprits."""

    code = "usage_conflict"

    def __init__(self, ids: Iterable[str]) -> None:
        self.ids = sorted(set(ids))
        super().__init__(f"usage already recorded with other content: {', '.join(self.ids)}")


class UsageRefused(BillingError):
    """Quantities that cannot be, of the events with these ids."""

    code = "usage_refused"

    def __init__(self, ids: Iterable[str]) -> None:
        self.ids = sorted(ids)
        super().__init__(f"no such quantities: {', '.join(self.ids[:5])}")


class PriceRefused(BillingError):
    code = "price_refused"


class TermRefused(BillingError):
    code = "term_refused"


class ReasonMissing(BillingError):
    code = "invalid_reason"


class NoEvidence(BillingError):
    """No usage stands behind this document."""

    code = "no_evidence"


class Unbalanced(BillingError):
    code = "ledger_unbalanced"


class IdempotencyConflict(BillingError):
    """The same idempotency key, another content."""

    code = "idempotency_conflict"


class LedgerRefused(BillingError):
    code = "ledger_refused"


class UnknownAccount(BillingError):
    code = "account_not_found"


class BudgetRefused(BillingError):
    """The input in `field` cannot be accepted."""

    code = "invalid_budget"

    def __init__(self, message: str, *, field: str = "") -> None:
        super().__init__(message)
        self.field = field


class BudgetConflict(BillingError):
    """It does not go together with the budgets that are there already."""

    code = "budget_conflict"

    def __init__(self, message: str, *, code: str = "") -> None:
        super().__init__(message)
        self.code = code or self.code


class BooksRefused(BillingError):
    """The books of a month cannot be closed, or opened again; `code` says why."""

    code = "books_refused"

    def __init__(self, message: str, *, code: str = "") -> None:
        super().__init__(message)
        self.code = code or self.code


class CreditRefused(BillingError):
    """Credit is not given, taken or paid back; `code` says why."""

    code = "credit_refused"

    def __init__(self, message: str, *, code: str = "") -> None:
        super().__init__(message)
        self.code = code or self.code


class UnknownInvoice(BillingError):
    code = "invoice_not_found"


class Enclosed(UnknownInvoice):
    """It is kept for the books alone: `invoices.vault.read`."""

    code = "invoice_in_vault"


class NotIssuable(BillingError):
    """The document cannot be issued as it stands; `code` says which way it fails."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class InvoiceRefused(BillingError):
    """What was asked for does not go with the state of the invoice."""

    code = "invoice_refused"


class ProfileRefused(BillingError):
    """The input in `field` of a billing profile or an entity cannot be accepted."""

    code = "invalid_profile"

    def __init__(self, message: str, *, field: str = "") -> None:
        super().__init__(message)
        self.field = field


class PaymentRefused(BillingError):
    """A payment is not booked, assigned or given back; `code` says why."""

    code = "payment_refused"

    def __init__(self, message: str, *, code: str = "") -> None:
        super().__init__(message)
        self.code = code or self.code


class MeteringRefused(BillingError):
    code = "metering_refused"
