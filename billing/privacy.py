"""The cellar's tables, classified: accounts, prices, usage, budgets, the ledger."""

from functools import partial

from billing import models as b
from billing.credit import privacy as credit
from billing.invoices import privacy as invoices
from billing.meters import privacy as meters
from billing.payments import privacy as payments
from compliance.privacy import registry
from compliance.privacy.registry import CONTROLLER, PROCESSOR, levels

_usage = partial(
    registry.table,
    category="usage",
    role=CONTROLLER,
    purpose="billing what was used, and showing it",
    basis="contract",
)
_books = partial(
    registry.table,
    category="invoicing",
    role=CONTROLLER,
    purpose="keeping books",
    basis="legal_obligation",
    retention="ledger",
)


def register() -> None:
    _accounts()
    _used()
    _spending()
    _ledger()
    for room in (meters, invoices, credit, payments):
        room.register()


def _accounts() -> None:
    account = partial(
        registry.table,
        category="accounts",
        role=CONTROLLER,
        purpose="billing what was agreed",
        basis="contract",
        retention="account",
    )
    account(
        b.Account,
        columns=levels(none="currency created_at", pseudonymous="id", personal="name"),
    )
    account(
        b.Price,
        retention="voucher",
        columns=levels(
            none="id meter device_kind currency amount valid_from valid_to created_at",
            pseudonymous="account_id",
        ),
    )
    account(
        b.Term,
        retention="voucher",
        columns=levels(
            none="""id kind meter device_kind quantity discount amount currency valid_from
            created_at""",
            pseudonymous="account_id",
            personal="note",
        ),
    )
    registry.table(
        b.OwnedCost,
        category="catalogue",
        role=CONTROLLER,
        purpose="knowing what devices cost",
        basis="none",
        retention="catalogue",
        columns=levels(none="id device_kind amount currency valid_from created_at"),
    )


def _used() -> None:
    _usage(
        b.UsageInbox,
        retention="request_inbox",
        columns=levels(
            none="""gateway_id operation opened_at closed_at status finish counted_by input_tokens
            cached_tokens output_tokens nano_eur first_us decode_us charges received_at booked_at
            problem""",
            pseudonymous="request_id key_id project_id endpoint_id replica_id run agent",
        ),
    )
    _usage(
        b.UsageEvent,
        retention="inference_metadata",
        columns=levels(
            none="at region device_kind meter basis quantity share flags number",
            pseudonymous="""id account_id project_id key_id endpoint_id replica_id request_id agent
            run""",
        ),
    )
    _usage(
        "billing_usagehour",
        retention="voucher",
        columns=levels(
            none="bucket meter basis device_kind share region quantity events",
            pseudonymous="account_id project_id endpoint_id key_id agent",
        ),
    )
    _usage(
        "billing_usagedue",
        retention="live_state",
        columns=levels(none="hour changed_at", pseudonymous="account_id"),
    )


def _spending() -> None:
    spending = partial(
        registry.table,
        category="usage",
        role=PROCESSOR,
        purpose="bounding what a tenant's people and programs spend",
        basis="instruction",
    )
    spending(
        b.Budget,
        retention="account",
        columns=levels(
            none="""unit amount allowance window time_zone hard by_billing created_at
            deleted_at""",
            pseudonymous="id organization_id subject subject_id name",
        ),
    )
    spending(
        b.BudgetWindow,
        retention="run_counter",
        columns=levels(
            none="id spent calls first_at last_at noted", pseudonymous="budget_id window"
        ),
    )
    spending(
        b.Lease,
        retention="run_counter",
        columns=levels(
            none="id epoch granted settled seq closed_at", pseudonymous="budget_id window holder"
        ),
    )
    spending(
        b.RunStop,
        retention="run_stop",
        columns=levels(none="id at stopped gateway_id", pseudonymous="project_id run key_id"),
    )


def _ledger() -> None:
    _books(b.LedgerAccount, columns=levels(none="id currency scale", pseudonymous="code"))
    _books(
        b.LedgerTransaction,
        columns=levels(
            none="id kind effective_at posted_at reverses_id xid", pseudonymous="idempotency_key"
        ),
    )
    _books(b.LedgerEntry, columns=levels(none="id transaction_id account_id amount"))
    _books(
        b.BooksClosing,
        columns=levels(
            none="id month closed_at asked_at reopened_at",
            pseudonymous="closed_by balances asked_by reopened_by",
            personal="reason",
        ),
    )
    _books(b.Reconciliation, columns=levels(none="id at checked", pseudonymous="findings"))
    _books(
        b.DatevSetting,
        columns=levels(none="id consultant client year_begins digits chart accounts changed_at"),
    )
