"""The room's tables, classified: credit and vouchers."""

from functools import partial

from billing.credit import models as credit
from billing.credit.advance_models import TopUpDecision
from compliance.privacy import registry
from compliance.privacy.registry import CONTROLLER, levels

_credit = partial(
    registry.table,
    category="payments",
    role=CONTROLLER,
    purpose="keeping what was paid or given in advance",
    basis="legal_obligation",
    retention="voucher",
)


def register() -> None:
    _credit(
        credit.Voucher,
        columns=levels(
            none="id amount currency valid_days expires_at created_at revoked_at redeemed_at",
            personal="note",
            secrets="code_hash",
        ),
    )
    _credit(
        credit.CreditGrant,
        columns=levels(
            none="""id kind amount left currency granted_at expires_at treatment tax tax_country
            tax_rate""",
            pseudonymous="account_id key voucher_id payment_id invoice_id",
            personal="note",
        ),
    )
    _credit(
        credit.CreditUse,
        columns=levels(none="id kind amount tax key at", pseudonymous="grant_id invoice_id"),
    )
    _credit(
        TopUpDecision,
        columns=levels(
            none="id received_on due_on treatment held_reason tried_at decided_at",
            pseudonymous="grant_id",
            personal="because decision",
        ),
    )
