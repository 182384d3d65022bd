"""Which datasets there are, and which of them a kind of export holds. Rooms register theirs."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from compliance.bundles.tables import Row
from compliance.models import Export

Rows = Callable[[str, datetime, datetime], Iterable[Row]]
RowsAbout = Callable[[str, datetime, datetime, str], Iterable[Row]]
# Files of a bundle: the path in it (documents/…) and where the content lies, in the order of paths.
# Written below the given folder, deterministic, and as far as the export's profile allows. The
# bundle's tables lie beside that folder, as NAME.csv and NAME.jsonl.
Documents = Callable[[Export, Path], Iterable[tuple[str, Path]]]


ORGANIZATION, PLATFORM = "organization", "platform"
OWNERS = (ORGANIZATION, PLATFORM)


def owner(log: str) -> str:
    """Whose a log is, one of OWNERS."""
    return PLATFORM if log == PLATFORM else ORGANIZATION


@dataclass(frozen=True)
class Dataset:
    """`personal`: columns that may say who somebody is; `pseudonymised` exports mask them.

    `of`: whose logs have such rows; a kind that holds it leaves it out of others' exports.
    """

    name: str
    columns: tuple[str, ...]
    rows: Rows | None
    personal: tuple[str, ...] = ()
    general: bool = True
    rows_about: RowsAbout | None = None
    of: tuple[str, ...] = OWNERS

    def read(self, export: Export, end: datetime) -> Iterable[Row]:
        """Of the export's log and period, up to `end`."""
        if self.rows_about:
            return self.rows_about(export.log_id, export.period_start, end, export.about)
        assert self.rows is not None
        return self.rows(export.log_id, export.period_start, end)


@dataclass(frozen=True)
class Kind:
    """What may be asked for.

    `datasets`: the names of those it holds; None: every general one. `about`: an export of it is
    about one thing, whose id begins with one of these; `known(log, id)`: whether there is such a
    thing for that log. `of`: whose log, organization or platform. `events`: with the bodies of the
    log's events of the period, not their hashes alone.
    """

    name: str
    title: str
    datasets: tuple[str, ...] | None = None
    documents: Documents | None = None
    about: tuple[str, ...] = ()
    known: Callable[[str, str], bool] | None = None
    of: tuple[str, ...] = OWNERS
    events: bool = True

    def chosen(self, owner: str) -> list[Dataset]:
        """By name; `owner` is one of OWNERS."""
        names = [one.name for one in datasets.values() if one.general]
        found = [
            datasets[name] for name in sorted(names if self.datasets is None else self.datasets)
        ]
        return [one for one in found if owner in one.of]


datasets: dict[str, Dataset] = {}
kinds: dict[str, Kind] = {
    "records": Kind("records", "All records, with the audit log"),
    "audit_log": Kind("audit_log", "The audit log alone", ("audit_events",)),
}


def register(
    name: str,
    columns: Sequence[str],
    rows: Rows,
    *,
    personal: Sequence[str] = (),
    general: bool = True,
    of: Sequence[str] = OWNERS,
) -> None:
    """A room offers a dataset: `rows(log, start, end)` yields tuples in the order of `columns`.

    Rows must come in a fixed order and be read as they are asked for. `general`: it is among the
    `records` of a log, not only in a kind of its own (`register_kind`).
    """
    datasets[name] = Dataset(name, tuple(columns), rows, tuple(personal), general, of=tuple(of))


def register_about(
    name: str, columns: Sequence[str], rows: RowsAbout, *, personal: Sequence[str] = ()
) -> None:
    """A dataset of kinds that are about one thing: `rows(log, start, end, about)`."""
    datasets[name] = Dataset(name, tuple(columns), None, tuple(personal), False, rows)


def register_kind(
    name: str,
    title: str,
    names: Sequence[str],
    *,
    documents: Documents | None = None,
    about: Sequence[str] = (),
    known: Callable[[str, str], bool] | None = None,
    of: Sequence[str] = OWNERS,
    events: bool = True,
) -> None:
    """An export of its own (`Kind`) of those datasets; its name is [a-z][a-z0-9_]{0,31}."""
    kinds[name] = Kind(name, title, tuple(names), documents, tuple(about), known, tuple(of), events)
