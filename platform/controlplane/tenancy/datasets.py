"""The tenants' part of an export that no lower room can make: it knows whose account it is."""

from collections.abc import Callable, Iterable, Iterator
from datetime import datetime

from billing.books import journal
from billing.invoices import datasets as invoice_datasets
from billing.meters import signed, usage
from compliance import audit, exports
from controlplane.tenancy.models import Organization

_Row = tuple[exports.Value, ...]


def register() -> None:
    exports.register("usage", usage.EXPORTED, usage_events, personal=("agent", "run"))
    exports.register("ledger_journal", journal.COLUMNS, journal.rows)
    exports.register(
        "invoices",
        invoice_datasets.INVOICES,
        _of(invoice_datasets.invoices),
        personal=("customer_number", "vies_consultation"),
    )
    exports.register("invoice_lines", invoice_datasets.LINES, _of(invoice_datasets.lines))
    exports.register(
        "recapitulative_statement",
        invoice_datasets.STATEMENT,
        _of(invoice_datasets.statement),
        personal=("customer_number",),
    )
    exports.register("node_batches", signed.BATCHES, _of(signed.batch_rows))
    exports.register("node_certificates", signed.CERTIFICATES, _of(signed.certificate_rows))
    exports.register("node_authorities", signed.AUTHORITIES, _of(signed.authority_rows))


def _of(rows: Callable[[str | None, datetime, datetime], Iterable[_Row]]) -> exports.Rows:
    """Of an organization its own; of the platform's log those of all."""

    def found(log: str, start: datetime, end: datetime) -> Iterator[_Row]:
        if log == audit.PLATFORM:
            yield from rows(None, start, end)
            return
        organization = Organization.objects.filter(id=log).only("account_id").first()
        if organization is not None:
            yield from rows(organization.account_id, start, end)

    return found


def usage_events(log: str, start: datetime, end: datetime) -> Iterator[tuple[exports.Value, ...]]:
    """An organization's usage; the platform's own log has none."""
    organization = Organization.objects.filter(id=log).only("account_id").first()
    if organization is not None:
        yield from usage.rows(organization.account_id, start, end)
