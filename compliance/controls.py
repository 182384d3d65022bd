"""Which control of ISO/IEC 27001:2022, Annex A, the software has evidence for, and from where.

Rooms register producers in their `apps.ready`:

    controls.register(
        "A.8.24", producer="keys_crypto", columns=("id", "purpose"), rows=rows,
        population="every key that existed in the period",
    )

A producer is a dataset of the export kind `annex_a`: `rows(log, start, end)` gives what held at
any moment of start <= t < end, or happened in it, of that log alone. So a list is asked "during"
a period, and "as of" a moment by a period of a microsecond. Where a dataset of that name is
registered already (`exports.register`), `columns` and `rows` may be left out.
"""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

import rfc8785

from compliance.bundles import kinds
from compliance.bundles.kinds import ORGANIZATION, OWNERS, PLATFORM
from compliance.bundles.tables import Row
from compliance.control_catalogue import CATALOGUE, CONTROLS, Control
from compliance.stamps import stamp

__all__ = [
    "CATALOGUE",
    "CONTROLS",
    "KIND",
    "ORGANIZATION",
    "OWNERS",
    "PLATFORM",
    "Control",
    "Producer",
    "evidence_id",
    "of_control",
    "producers",
    "register",
    "source_query",
]

KIND = "annex_a"
TITLE = "ISO/IEC 27001 Annex A: evidence of a period"


@dataclass(frozen=True)
class Producer:
    """Where evidence for some controls comes from.

    `population`: which rows there have to be, so that whoever doubts can count again. `logs`: whose
    packs have it. `events`: where each row is an event of the log, columns of those events and the
    values that count; then the log itself proves how many there are.
    """

    name: str
    controls: tuple[str, ...]
    population: str
    logs: tuple[str, ...] = OWNERS
    events: Mapping[str, Sequence[str]] | None = None
    version: int = 1

    @property
    def refs(self) -> list[str]:
        return [CONTROLS[one].ref for one in self.controls]

    @property
    def dataset(self) -> kinds.Dataset:
        return kinds.datasets[self.name]

    def rows(self, log: str, start: datetime, end: datetime) -> Iterable[Row]:
        """As its dataset has them: of a log, of start <= t < end."""
        rows = self.dataset.rows
        assert rows is not None, f"{self.name} is about one thing: no producer can be"
        return rows(log, start, end)


producers: dict[str, Producer] = {}


def register(
    *controls: str,
    producer: str,
    population: str,
    columns: Sequence[str] = (),
    rows: kinds.Rows | None = None,
    personal: Sequence[str] = (),
    logs: Sequence[str] = OWNERS,
    events: Mapping[str, Sequence[str]] | None = None,
    version: int = 1,
) -> None:
    """A producer of evidence for these controls. Raises KeyError on a control that is none.

    Raise `version` when its rows or columns come to mean something else.
    """
    if rows is not None:
        kinds.register(producer, columns, rows, personal=personal, general=False, of=logs)
    ids = tuple(CONTROLS[one].id for one in controls)
    made = Producer(producer, ids, population, tuple(logs), events, version)
    producers[producer] = made
    kinds.kinds[KIND] = replace(kinds.kinds[KIND], datasets=tuple(producers))


def of_control(control: str, owner: str = "") -> list[Producer]:
    """By name; `owner` (of kinds.OWNERS): those alone whose rows are in such packs."""
    found = [one for _, one in sorted(producers.items()) if control in one.controls]
    return [one for one in found if not owner or owner in one.logs]


def source_query(producer: Producer, log: str, start: datetime, end: datetime) -> bytes:
    """What was asked, as canonical JSON; its SHA-256 is an evidence record's source_query_hash."""
    said: dict[str, Any] = {
        "producer": producer.name,
        "version": producer.version,
        "population": producer.population,
        "log": log,
        "from": stamp(start),
        "to": stamp(end),
    }
    if producer.events is not None:
        said["events"] = {column: sorted(those) for column, those in producer.events.items()}
    return rfc8785.dumps(said)


def evidence_id(producer: Producer, log: str, start: datetime, end: datetime) -> str:
    """The same question of the same log and period is the same piece of evidence."""
    digest = hashlib.sha256(source_query(producer, log, start, end)).hexdigest()
    return f"evd_{digest[:26]}"
