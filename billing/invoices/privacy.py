"""The room's tables, classified: who issues, who owes, and what was invoiced."""

from functools import partial

from billing.invoices import models as invoices
from compliance.privacy import registry
from compliance.privacy.registry import CONTROLLER, levels

_invoice = partial(
    registry.table,
    category="invoicing",
    role=CONTROLLER,
    purpose="issuing invoices",
    basis="legal_obligation",
    retention="voucher",
)


def register() -> None:
    _parties()
    _documents()


def _parties() -> None:
    _invoice(
        invoices.Entity,
        columns=levels(
            none="""id street extra postcode city country vat_id tax_number registration iban bic
            creditor_id currency invoice_issuer payment_terms_days placeholder created_at""",
            personal="name contact email phone",
        ),
    )
    _invoice(
        invoices.Customer,
        category="accounts",
        basis="contract",
        retention="account",
        columns=levels(
            none="""region country kind electronic_scheme mode collection credit_limit created_at
            updated_at""",
            pseudonymous="id account_id entity_id name_accepted_by",
            personal="""legal_name street extra postcode city vat_id registration contact email
            electronic_address buyer_reference proof""",
        ),
    )


def _documents() -> None:
    _invoice(
        invoices.Invoice,
        columns=levels(
            none="""id kind state series year number label period_start period_end issued_on due_on
            currency net vat gross prepaid usage_upto due settled accrued drafted_at final_at
            paid_at held_reason advances source json_sha256 xml_sha256 pdf_sha256""",
            pseudonymous="entity_id account_id corrects_id",
            personal="decision held_because reason",
        ),
    )
    _invoice(
        invoices.InvoiceLine,
        columns=levels(
            none="""id invoice_id position kind meter device_kind share price_id unit_amount
            unit_size quantity exact amount start end""",
            pseudonymous="project_id endpoint_id endpoint_name",
            personal="project_name note",
        ),
    )
    _invoice(
        invoices.InvoiceFile,
        retention="invoice_file",
        columns=levels(
            none="id invoice_id form sha256 keep_until created_at",
            pseudonymous="vault_key_id",
            personal="content",
        ),
    )
    _invoice(invoices.NumberSeries, columns=levels(none="id entity_id series year last"))
    _invoice(
        invoices.MonthRun,
        columns=levels(none="id month final begun_at ended_at", pseudonymous="cursor outcomes"),
    )
