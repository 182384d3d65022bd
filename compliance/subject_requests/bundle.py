"""What is held of one person, for that person (Art. 15), with the subset of Art. 20."""

import csv
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from django.conf import settings

from compliance import exports
from compliance.bundles import tables, writer
from compliance.models import Export
from compliance.privacy import registry, schedule, stores
from compliance.privacy.rules import Rule
from compliance.stamps import stamp
from compliance.subjects import PERSON, PREFIXES, Subject

KIND = "data_subject"
SCHEMA = "stoa data subject 1"
RECIPIENTS = (
    "the operator of this installation",
    "the organizations that you are a member of: their members with the permission to look",
    "whoever such an organization, or the operator, has its audit log sent to: pseudonymous ids",
)
AUTOMATED = "none: nothing here decides about a person by automated means alone (Art. 22)"
TRANSFERS = (
    "this installation sends none of it outside the regions that it runs in; addresses to which an"
    " organization has its log sent are named in the register of transfers"
)
SOURCES = "you, whoever manages the organization that you are a member of, and what your use leaves"
RIGHTS = (
    "rectification (Art. 16), erasure (Art. 17), restriction (Art. 18), portability (Art. 20) and"
    " objection (Art. 21): ask on the console's page Requests, or the operator",
    "a complaint to a supervisory authority (Art. 77)",
)
# Article 20 is about what was provided, where the basis is a contract or consent.
_PORTABLE = frozenset({"contract", "consent"})
_README = """Your data

What this installation ({origin}) holds of {id}, as of {at}.

data.json     everything in one structured file; its `schema` says which form it has.
tables-*.csv  the same rows, a file for each place, for spreadsheets.

Each place says purpose, legal basis, how long it is kept, and which of its columns are the subset
of Art. 20 (`portable`). Recipients, transfers, sources, automated decisions and your rights stand
in data.json too. Keys and hashes of passwords are not in it. Files that you had kept are listed;
their content is fetched by the API of files.
{less}
"""
_LESS = """
This bundle was asked for with the profile `{profile}`: it counts rows and shows none. Ask for the
profile `full`.
"""


def register() -> None:
    exports.register_kind(
        KIND,
        "What is held of one person, for that person",
        (),
        documents=documents,
        about=(PREFIXES[PERSON].rstrip("_"),),
        of=(exports.PLATFORM,),
        events=False,
    )


def documents(export: Export, folder: Path) -> Iterator[tuple[str, Path]]:
    """README.txt, data.json and a CSV for each place that holds something."""
    subject = Subject(PERSON, export.about)
    full = export.profile == writer.FULL
    places = [one for one in _places(subject, full) if one["count"]]
    said = {
        "schema": SCHEMA,
        "subject": export.about,
        "at": stamp(export.created_at),
        "controller": settings.LOG_ORIGIN,
        "places": places,
        "recipients": list(RECIPIENTS),
        "transfers": TRANSFERS,
        "sources": SOURCES,
        "automated_decisions": AUTOMATED,
        "rights": list(RIGHTS),
    }
    less = "" if full else _LESS.format(profile=export.profile)
    words = _README.format(
        origin=settings.LOG_ORIGIN, id=export.about, at=stamp(export.created_at), less=less
    )
    written = {"README.txt": words, "data.json": json.dumps(said, indent=1, sort_keys=True)}
    for name, text in written.items():
        (folder / name).write_text(text, encoding="utf-8")
    for place in places if full else ():
        name = f"tables-{place['store'].replace('/', '-')}.csv"
        _table(folder / name, place["rows"])
        written[name] = ""
    for name in sorted(written):
        yield f"documents/{name}", folder / name


def _places(subject: Subject, full: bool) -> Iterable[dict[str, Any]]:
    known = {one.name: one for one in registry.everything()}
    for store in stores.of(subject):
        rows = list(store.export(subject))
        table = known.get(store.tables[0]) if store.tables else None
        yield {
            "store": store.name,
            "place": store.place,
            "tables": list(store.tables),
            "count": len(rows),
            **(_told(table) if table else {}),
            **({"rows": rows} if full else {}),
        }


def _told(table: registry.Table) -> dict[str, Any]:
    rule = schedule.PUBLISHED.get(table.retention)
    portable = table.basis in _PORTABLE
    return {
        "purpose": table.purpose,
        "legal_basis": table.basis,
        "role": table.role,
        "retention": _kept(rule) if rule else table.retention,
        "portable": list(table.at(registry.PERSONAL, registry.SPECIAL)) if portable else [],
    }


def _kept(rule: Rule) -> str:
    period = f"{rule.period}, from when {rule.starts}" if rule.period else f"until {rule.starts}"
    return f"{period} ({rule.ground or rule.source})"


def _table(path: Path, rows: list[dict[str, Any]]) -> None:
    columns = list(dict.fromkeys(name for row in rows for name in row))
    with path.open("w", encoding="utf-8", newline="") as file:
        sheet = csv.writer(file)
        sheet.writerow(columns)
        for row in rows:
            sheet.writerow([_cell(row.get(name)) for name in columns])


def _cell(value: Any) -> Any:
    return tables.cell(json.dumps(value) if isinstance(value, list | dict) else value)
