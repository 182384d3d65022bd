"""Which datasets there are, and which of them a kind of export holds. Rooms register theirs."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime

from compliance.bundles.tables import Row

Rows = Callable[[str, datetime, datetime], Iterable[Row]]


@dataclass(frozen=True)
class Dataset:
    """`personal`: columns that may say who somebody is; `pseudonymised` exports mask them."""

    name: str
    columns: tuple[str, ...]
    rows: Rows
    personal: tuple[str, ...] = ()
    general: bool = True


@dataclass(frozen=True)
class Kind:
    """`datasets`: the names of those it holds; None: every general one."""

    name: str
    title: str
    datasets: tuple[str, ...] | None = None

    def chosen(self) -> list[Dataset]:
        if self.datasets is None:
            return [datasets[name] for name in sorted(datasets) if datasets[name].general]
        return [datasets[name] for name in sorted(self.datasets)]


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
) -> None:
    """A room offers a dataset: `rows(log, start, end)` yields tuples in the order of `columns`.

    Rows must come in a fixed order and be read as they are asked for. `general`: it is among the
    `records` of a log, not only in a kind of its own (`register_kind`).
    """
    datasets[name] = Dataset(name, tuple(columns), rows, tuple(personal), general)


def register_kind(name: str, title: str, names: Sequence[str]) -> None:
    """An export of its own, of those datasets; its name is [a-z][a-z0-9_]{0,31}."""
    kinds[name] = Kind(name, title, tuple(names))
