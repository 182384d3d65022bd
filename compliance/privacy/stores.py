"""Where data of a person or an organization lies, and what an erasure does with it.

Each room registers its stores as it loads. A store that keeps something says on what ground and
until when; nothing is passed over in silence.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import date, datetime
from typing import Any, Protocol

from django.db.models import Model, Q, QuerySet

from compliance.privacy import registry
from compliance.privacy.refusals import Refusal
from compliance.stamps import stamp
from compliance.subjects import ORGANIZATION, PERSON, Subject

DELETE, SHRED, PSEUDONYMISE, KEEP = "delete", "shred", "pseudonymise", "keep"
# What stands where something was erased and a column wants a value.
ERASED = "erased"

Until = Callable[[Subject, datetime], date | None]


class NotYet(Refusal):
    """Something that has to end first is still under way; the message says what."""

    def __init__(self, message: str) -> None:
        super().__init__("not_yet", message)


@dataclass(frozen=True)
class Found:
    """How many rows (files, messages) hold something of a subject, and in which columns."""

    rows: int = 0
    columns: tuple[str, ...] = ()


@dataclass(frozen=True)
class Outcome:
    """What was done, or would be: `rows` of it; of what is kept, the ground and the last day."""

    action: str
    rows: int
    ground: str = ""
    until: date | None = None
    key_ids: tuple[str, ...] = ()

    def as_json(self) -> dict[str, Any]:
        said: dict[str, Any] = {"action": self.action, "rows": self.rows}
        if self.action == KEEP:
            said |= {"ground": self.ground, "until": self.until and self.until.isoformat()}
        return said | ({"keys": sorted(self.key_ids)} if self.key_ids else {})


class Store(Protocol):
    """`tables`: those whose columns it answers for. `order`: stores are erased from low to high.
    `moves`: its rows may become more while a plan waits (sessions), which does not undo the plan.
    """

    @property
    def name(self) -> str: ...
    @property
    def place(self) -> str:
        """database, files, queue, spool, nodes or backups"""
        ...

    @property
    def kind(self) -> str:
        """Of the subjects that it knows."""
        ...

    @property
    def order(self) -> int: ...
    @property
    def moves(self) -> bool: ...
    @property
    def tables(self) -> tuple[str, ...]: ...

    def find(self, subject: Subject) -> Found: ...

    def export(self, subject: Subject) -> Iterable[dict[str, Any]]:
        """What it holds of a person, for that person; no secrets, nothing of others."""
        ...

    def plan(self, subject: Subject, now: datetime) -> Outcome:
        """What `erase` would do."""
        ...

    def erase(self, subject: Subject, now: datetime) -> Outcome:
        """May be repeated, and begun again after a kill. Raises NotYet."""
        ...


class Base:
    """A store with the usual answers; `find` and `erase` are its own."""

    name = ""
    place = "database"
    kind = PERSON
    order = 50
    moves = False
    tables: tuple[str, ...] = ()
    action = DELETE
    ground = ""

    def find(self, subject: Subject) -> Found:
        raise NotImplementedError

    def export(self, subject: Subject) -> Iterable[dict[str, Any]]:
        return ()

    def plan(self, subject: Subject, now: datetime) -> Outcome:
        return Outcome(self.action, self.find(subject).rows, self.ground)

    def erase(self, subject: Subject, now: datetime) -> Outcome:
        raise NotImplementedError


@dataclass(frozen=True)
class Rows:
    """The rows of one table that are a subject's.

    `of`: a lookup by the subject's id, or what makes a condition of it. `put`: of pseudonymised
    rows, what stands in a column instead. `last`: of kept rows, until when.
    """

    name: str
    model: type[Model]
    of: str | Callable[[str], Q]
    kind: str = PERSON
    action: str = DELETE
    put: Mapping[str, Any] = field(default_factory=dict)
    ground: str = ""
    last: Until | None = None
    order: int = 50
    moves: bool = False
    place: str = "database"

    @property
    def tables(self) -> tuple[str, ...]:
        return (self.model._meta.db_table,)

    def rows(self, subject: Subject) -> QuerySet[Any]:
        """Theirs, as far as there is something to erase in them."""
        found = self.model._default_manager.all()
        if subject.kind != self.kind:
            return found.none()
        found = found.filter(
            self.of(subject.id) if callable(self.of) else Q(**{self.of: subject.id})
        )
        done = Q()
        for column, value in self.put.items():
            done &= Q(**{f"{column}__isnull": True}) if value is None else Q(**{column: value})
        return found.exclude(done) if self.put else found

    def find(self, subject: Subject) -> Found:
        table = self.tables[0]
        count = self.rows(subject).count()
        return Found(count, tuple(f"{table}.{one}" for one in self._columns()) if count else ())

    def export(self, subject: Subject) -> Iterator[dict[str, Any]]:
        if self.kind != PERSON:
            return
        hidden = _hidden(self.model)
        for row in self.rows(subject).order_by("pk").iterator(chunk_size=500):
            yield {
                str(one.column): plain(getattr(row, one.attname))
                for one in self.model._meta.concrete_fields
                if one.column not in hidden
            }

    def plan(self, subject: Subject, now: datetime) -> Outcome:
        until = self.last(subject, now) if self.last else None
        return Outcome(self.action, self.rows(subject).count(), self.ground, until)

    def erase(self, subject: Subject, now: datetime) -> Outcome:
        rows = self.rows(subject)
        if self.action == KEEP:
            return self.plan(subject, now)
        if self.action == PSEUDONYMISE:
            return Outcome(PSEUDONYMISE, rows.update(**self.put))
        _, by_model = rows.delete()
        return Outcome(DELETE, by_model.get(self.model._meta.label, 0))

    def _columns(self) -> tuple[str, ...]:
        if self.put:
            columns = {one.name: one.column for one in self.model._meta.concrete_fields}
            return tuple(str(columns[one]) for one in self.put)
        known = registry.tables.get(self.model)
        return known.at(registry.PERSONAL, registry.SPECIAL) if known else ()


_stores: dict[str, Store] = {}
_exempt: dict[str, str] = {}
_known: list[Callable[[Subject], Iterable[str]]] = []
_obstacles: list[Callable[[Subject], tuple[str, str] | None]] = []


def register(store: Store) -> None:
    """Raises ValueError for a name that is another's, and for keeping without a ground."""
    if _stores.get(store.name, store) != store:
        raise ValueError(f"two stores are called {store.name}")
    _stores[store.name] = store


def exempt(table: str, ground: str) -> None:
    """A table whose personal columns are no erasure's business, and why."""
    _exempt[table] = ground


def exempted() -> Mapping[str, str]:
    return dict(_exempt)


def of(subject: Subject) -> list[Store]:
    """The stores that know such subjects, in the order in which they are erased."""
    mine = [one for one in _stores.values() if one.kind == subject.kind]
    return sorted(mine, key=lambda one: (one.order, one.name))


def named(name: str) -> Store:
    """Raises KeyError."""
    return _stores[name]


def covered() -> frozenset[str]:
    """Tables that some store answers for."""
    return frozenset(table for one in _stores.values() for table in one.tables)


def register_known(values: Callable[[Subject], Iterable[str]]) -> None:
    """Values by which a subject may be recognized in any text (an address, a name)."""
    _known.append(values)


def known_values(subject: Subject) -> list[str]:
    """At least four characters each: shorter ones are found everywhere."""
    return sorted({one for values in _known for one in values(subject) if len(one) >= 4})


def register_obstacle(look: Callable[[Subject], tuple[str, str] | None]) -> None:
    """What may forbid an erasure: a code and a reason in a person's words, or None."""
    _obstacles.append(look)


def obstacle(subject: Subject) -> tuple[str, str] | None:
    found = (look(subject) for look in _obstacles)
    return next((one for one in found if one), None)


def plain(value: Any) -> Any:
    """As JSON has it; bytes are told by their length alone."""
    if isinstance(value, datetime):
        return stamp(value)
    if isinstance(value, memoryview | bytes):
        return {"bytes": len(value)}
    if value is None or isinstance(value, str | int | bool | list | dict):
        return value
    return str(value)


def _hidden(model: type[Model]) -> frozenset[str]:
    known = registry.tables.get(model)
    return frozenset(known.at(registry.SECRET)) if known else frozenset({"password"})


__all__ = [
    "DELETE",
    "ERASED",
    "KEEP",
    "ORGANIZATION",
    "PERSON",
    "PSEUDONYMISE",
    "SHRED",
    "Base",
    "Found",
    "NotYet",
    "Outcome",
    "Rows",
    "Store",
    "Subject",
]
