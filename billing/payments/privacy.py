"""The room's tables, classified: payments by bank, debits, and Stripe's."""

from functools import partial

from billing.payments import models as payments
from billing.payments.stripe import models as stripe
from compliance.privacy import registry
from compliance.privacy.registry import CONTROLLER, levels

_paid = partial(
    registry.table,
    category="payments",
    role=CONTROLLER,
    purpose="knowing who has paid what",
    basis="legal_obligation",
    retention="voucher",
)


def register() -> None:
    _bank()
    _debits()
    _stripe_sides()
    _stripe_books()


def _bank() -> None:
    _paid(
        payments.Payment,
        columns=levels(
            none="id amount currency method received_at booked_at back",
            pseudonymous="key entity_id account_id",
            personal="reference payer_iban",
        ),
    )
    _paid(
        payments.Allocation,
        columns=levels(none="id payment_id purpose invoice_id amount at"),
    )
    _paid(payments.GivenBack, columns=levels(none="id key payment_id amount fee reason at"))
    _paid(
        payments.BankStatement,
        columns=levels(
            none="id entity_id iban name sequence sha256 opening closing entries read_at",
            pseudonymous="read_by",
        ),
    )
    _paid(
        payments.BankEntry,
        columns=levels(
            none="id statement_id key booked_on amount charges outcome rest decided_at",
            pseudonymous="payment_id candidates decided_by",
            personal="party party_iban remittance end_to_end because",
        ),
    )


def _debits() -> None:
    _paid(
        payments.DebitMandate,
        columns=levels(
            none="""id signed_on scheme recurrent notice_days last_collected account_changed
            revoked_on created_at""",
            pseudonymous="account_id reference",
            personal="debtor_name debtor_iban debtor_bic",
        ),
    )
    _paid(
        payments.CollectionFile,
        columns=levels(
            none="id entity_id message sha256 debits amount created_at",
            pseudonymous="created_by",
            personal="content",
        ),
    )
    _paid(
        payments.Debit,
        columns=levels(
            none="id invoice_id file_id amount notified_on collect_on state because",
            pseudonymous="mandate_id end_to_end",
        ),
    )


def _stripe_sides() -> None:
    _paid(
        stripe.StripeCustomer,
        columns=levels(none="created_at", pseudonymous="account_id customer_id"),
    )
    _paid(
        stripe.StripeMethod,
        columns=levels(
            none="id kind brand country created_at detached_at",
            pseudonymous="account_id method_id mandate",
            personal="last4 expires",
        ),
    )
    _paid(
        stripe.StripeCall,
        columns=levels(
            none="""id kind state generation stuck attempts first_sent_at next_at problem created_at
            closed_at""",
            pseudonymous="subject_id account_id result_id",
            personal="body",
        ),
    )
    _paid(
        stripe.StripePayment,
        columns=levels(
            none="id entity_id amount currency state reason created_at looked_at closed_at",
            pseudonymous="invoice_id account_id method_id session_id intent_id payment_id",
        ),
    )


def _stripe_books() -> None:
    _paid(
        stripe.StripeMovement,
        columns=levels(
            none="amount status taken restored created_at", pseudonymous="object_id payment_id"
        ),
    )
    _paid(
        stripe.StripeEvent,
        retention="stripe_event",
        columns=levels(
            none="event_id type livemode made_at received_at state attempts next_at problem",
            pseudonymous="object_id",
        ),
    )
    _paid(
        stripe.StripeBooking,
        columns=levels(
            none="type amount fee currency made_at booked_at seen_at_bank",
            pseudonymous="transaction_id source_id",
        ),
    )
    _paid(
        stripe.StripeCheck,
        columns=levels(none="id started_at until finished_at", pseudonymous="differences"),
    )
    _paid(
        stripe.StripeMeterEvent,
        columns=levels(
            none="identifier meter hour quantity created_at sent_at canceled_at given_up_at",
            pseudonymous="account_id",
        ),
    )
