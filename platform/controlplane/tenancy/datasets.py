"""The tenants' part of an export that no lower room can make: it knows whose account it is."""

from collections.abc import Callable, Iterable, Iterator
from datetime import datetime
from pathlib import Path

from billing.books import journal
from billing.invoices import datasets as invoice_datasets
from billing.invoices import files as invoice_files
from billing.meters import datasets as meter_datasets
from billing.meters import signed, usage
from compliance import audit, exports
from compliance.bundles import assembly
from compliance.bundles.writer import FULL
from compliance.models import Export
from controlplane.tenancy.models import Organization

_Row = tuple[exports.Value, ...]
# What kinds of exports of their own hold; a switching bundle holds all of it.
METERING = (
    *("usage", "node_batches", "node_certificates", "node_authorities", "metering_digests"),
    "metering_findings",
)
INVOICES = ("invoices", "invoice_lines", "invoice_files", "recapitulative_statement")


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
    exports.register(
        "metering_digests", meter_datasets.DIGESTS, _of(meter_datasets.digests), general=False
    )
    exports.register(
        "metering_findings",
        meter_datasets.FINDINGS,
        _of(meter_datasets.findings),
        personal=("explained_by", "explanation"),
        general=False,
    )
    exports.register("invoice_files", invoice_files.FILES, _of(invoice_files.rows), general=False)
    exports.register_kind(
        "metering_evidence",
        "Metering: usage, what nodes signed, and each invoice computed again",
        METERING,
        documents=recomputable,
    )
    exports.register_kind(
        "invoices", "Invoices: every form as it was frozen", INVOICES, documents=invoice_forms
    )


def invoice_forms(export: Export, folder: Path) -> Iterator[tuple[str, Path]]:
    """documents/invoices/ of an export: they name people, so of a full one alone."""
    owned, account = _account(export.log_id)
    if owned and export.profile == FULL:
        yield from invoice_files.forms(account, *_period(export), folder)


def recomputable(export: Export, folder: Path) -> Iterator[tuple[str, Path]]:
    """documents/recompute/ of an export; without whoever asked unless it is a full one."""
    owned, account = _account(export.log_id)
    if owned:
        people = export.profile == FULL
        yield from invoice_files.recomputable(account, *_period(export), folder, people=people)


def _account(log: str) -> tuple[bool, str | None]:
    """Whether anybody's money is in this log, and whose; None: everybody's."""
    if log == audit.PLATFORM:
        return True, None
    found = Organization.objects.filter(id=log).values_list("account_id", flat=True).first()
    return found is not None, found


def _period(export: Export) -> tuple[datetime, datetime]:
    return export.period_start, assembly.cut(export)


def _of(rows: Callable[[str | None, datetime, datetime], Iterable[_Row]]) -> exports.Rows:
    """Of an organization its own; of the platform's log those of all."""

    def found(log: str, start: datetime, end: datetime) -> Iterator[_Row]:
        owned, account = _account(log)
        if owned:
            yield from rows(account, start, end)

    return found


def usage_events(log: str, start: datetime, end: datetime) -> Iterator[tuple[exports.Value, ...]]:
    """An organization's usage; the platform's own log has none."""
    organization = Organization.objects.filter(id=log).only("account_id").first()
    if organization is not None:
        yield from usage.rows(organization.account_id, start, end)
