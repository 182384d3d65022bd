"""Which column holds what: each room classifies its tables here, in its `privacy.py`.

    registry.table(
        User, category="people", role=CONTROLLER, purpose="signing in", basis="contract",
        retention="account",
        columns=registry.levels(personal="email", pseudonymous="id", secrets="password",
                                none="last_login is_active created_at"),
    )

A column has one level; nothing has a default, so that a new column is looked at by somebody.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from django.db.models import Model

from compliance.privacy.categories import CATEGORIES


class Level(StrEnum):
    """From harmless to what may never be shown; a column takes the highest that it may hold."""

    NONE = "none"  # about nobody
    PSEUDONYMOUS = "pseudonymous"  # an id or figure that leads to a person by another table
    PERSONAL = "personal"  # names, addresses, words that people typed
    SPECIAL = "special"  # may hold anything, special categories too (Art. 9): a tenant's content
    SECRET = "secret"  # noqa: S105 - keys, hashes of passwords, what is sealed


NONE, PSEUDONYMOUS, PERSONAL = Level.NONE, Level.PSEUDONYMOUS, Level.PERSONAL
SPECIAL, SECRET = Level.SPECIAL, Level.SECRET

CONTROLLER = "controller"
PROCESSOR = "processor"
ROLES = frozenset({CONTROLLER, PROCESSOR})

# Article 6(1), or for a processor the tenant's instruction (Art. 28(3)(a)); "none": no person is
# in the table, so that none is needed.
BASES = frozenset(
    {"contract", "legal_obligation", "legitimate_interest", "instruction", "consent", "none"}
)

# Where a table's rows lie; `sealed`: the values are encrypted before they reach the database.
LOCATIONS = frozenset({"database", "database-sealed"})


@dataclass(frozen=True)
class Table:
    """One table as its room classifies it. `columns`: name in the database to level."""

    name: str
    category: str
    role: str
    purpose: str
    basis: str
    retention: str
    columns: Mapping[str, Level]
    location: str = "database"

    def at(self, *levels: Level) -> tuple[str, ...]:
        """The columns of these levels, in the table's order."""
        return tuple(name for name, level in self.columns.items() if level in levels)


tables: dict[type[Model], Table] = {}
# Tables that triggers fill and no model knows, by name.
unmodelled: dict[str, Table] = {}


def levels(
    *,
    none: str = "",
    pseudonymous: str = "",
    personal: str = "",
    special: str = "",
    secrets: str = "",
) -> dict[str, Level]:
    """Columns by level, each a line of names. Raises ValueError on a name that is there twice."""
    found: dict[str, Level] = {}
    said = {NONE: none, PSEUDONYMOUS: pseudonymous, PERSONAL: personal}
    for level, names in (said | {SPECIAL: special, SECRET: secrets}).items():
        for name in names.split():
            if name in found:
                raise ValueError(f"{name} has two levels: {found[name]} and {level}")
            found[name] = level
    return found


def table(
    model: type[Model] | str,
    *,
    category: str,
    role: str,
    purpose: str,
    basis: str,
    retention: str,
    columns: Mapping[str, Level],
    location: str = "database",
) -> None:
    """Classify a model's table (or one that has no model, by its name).

    `retention` is the code of a rule (`compliance.privacy.retention`). Columns go by their names
    in the database (`account_id`). Raises ValueError on an unknown role, basis, category or
    location.
    """
    name = model if isinstance(model, str) else model._meta.db_table
    closed = ((role, ROLES), (basis, BASES), (location, LOCATIONS), (category, CATEGORIES))
    for said, known in closed:
        if said not in known:
            raise ValueError(f"{name}: {said!r} is none of {', '.join(sorted(known))}")
    one = Table(name, category, role, purpose, basis, retention, dict(columns), location)
    if isinstance(model, str):
        unmodelled[name] = one
    else:
        tables[model] = one


def everything() -> list[Table]:
    """All classified tables, by name."""
    return sorted([*tables.values(), *unmodelled.values()], key=lambda one: one.name)
