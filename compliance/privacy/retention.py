"""The schedule carried out: rooms register what ends, passes do it, and each leaves its rows.

    retention.rows("quote", lambda before: Quote.objects.filter(created_at__lt=before),
                   organization="project__organization_id")

A pass works a rule off in transactions of at most LIMIT things, each with its own RetentionRun, so
that a worker that is killed loses nothing of what is told and the next one goes on. One worker at a
time carries out a rule. Without news a rule leaves one row a day.
"""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Protocol

from django.db import transaction
from django.db.models import Q, QuerySet

from compliance import audit, locks
from compliance.privacy import holds, periods
from compliance.privacy.models import RetentionRun
from compliance.subjects import Subject

logger = logging.getLogger(__name__)

LIMIT = 10_000
_RETRY = timedelta(hours=1)  # after a failure
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
Held = frozenset[Subject]


@dataclass(frozen=True)
class Outcome:
    """What a transaction did: things that went, and things that holds kept. `by_log`: how many
    of `done` were of which log, where each log is told of its own. `more`: not all went yet."""

    done: int = 0
    held: int = 0
    by_log: Mapping[str, int] = field(default_factory=dict)
    more: bool = False


class Executor(Protocol):
    """Ends at most `limit` things that began before `before` and that no hold keeps, in the
    caller's transaction. A bare number is how many went; as many as `limit`: there may be more."""

    def __call__(
        self, *, now: datetime, before: datetime, held: Held, limit: int
    ) -> int | Outcome: ...


@dataclass(frozen=True)
class _Registered:
    executor: Executor
    often: bool


_executors: dict[str, _Registered] = {}


def register(code: str, executor: Executor, *, often: bool = False) -> None:
    """`often`: in each pass, every few minutes, where things say to the second when they end;
    else once a day (UTC)."""
    _executors[code] = _Registered(executor, often)


def registered() -> frozenset[str]:
    return frozenset(_executors)


def rows(
    code: str,
    old: Callable[[datetime], QuerySet[Any]],
    *,
    organization: str | Callable[[list[str]], Q] = "",
    person: str = "",
    often: bool = False,
) -> None:
    """Register rows that are deleted. `organization`, `person`: the path of their subject's id, or
    what finds them by ids of organizations; empty where nobody's hold reaches them."""

    def executor(*, now: datetime, before: datetime, held: Held, limit: int) -> Outcome:
        due = old(before)
        kept = _kept(held, organization, person)
        free = due.exclude(kept) if kept else due
        ids = list(free.order_by().values_list("pk", flat=True)[:limit])
        label = due.model._meta.label
        gone = due.model._default_manager.filter(pk__in=ids).delete()[1].get(label, 0)
        more = len(ids) == limit
        return Outcome(gone, 0 if more or not kept else due.filter(kept).count(), more=more)

    register(code, executor, often=often)


def run(now: datetime, enough: Callable[[], bool] = lambda: False) -> int:
    """A pass: whatever is due of every rule; how many things went. For a worker, repeatedly."""
    periods.sync(now)
    held = holds.standing()
    done = 0
    for code in _due(now):
        if enough():
            break
        done += carry_out(code, now, held=held, enough=enough)
    return done


def carry_out(
    code: str,
    now: datetime,
    *,
    held: Held | None = None,
    enough: Callable[[], bool] = lambda: False,
) -> int:
    """One rule, to its end; how many things went. Nothing where somebody else is at it."""
    held = holds.standing() if held is None else held
    with locks.try_hold(f"retention.{code}") as alone:
        return _Pass(code, now, held).run(enough) if alone else 0


def runs(log: str = "") -> QuerySet[RetentionRun]:
    """The run log, the newest first: of everything, or of one log's part."""
    found = RetentionRun.objects.order_by("-at", "-id")
    return found.filter(log=log) if log else found


def clean_until(code: str) -> datetime | None:
    """Up to where nothing was left when the rule was last carried out; None: nobody knows."""
    last = RetentionRun.objects.filter(code=code, log="", complete=True).order_by("-at").first()
    return last.before if last and not last.held and not last.failed else None


class _Pass:
    def __init__(self, code: str, now: datetime, held: Held) -> None:
        self.code, self.now, self.held = code, now, held
        self.of = _executors[code]
        self.rule = periods.in_force(code, now)
        self.before = self.rule.period.before(now) if self.rule.period else now
        self.done = 0

    def run(self, enough: Callable[[], bool]) -> int:
        while True:
            try:
                with transaction.atomic():
                    outcome = self._step()
            except Exception:
                logger.exception("the rule of retention %s could not be carried out", self.code)
                self._failed()
                break
            if not outcome.more or enough():
                break
        return self.done

    def _step(self) -> Outcome:
        found = self.of.executor(now=self.now, before=self.before, held=self.held, limit=LIMIT)
        if not isinstance(found, Outcome):
            found = Outcome(found, more=found >= LIMIT)
        self.done += found.done
        for log, count in sorted(found.by_log.items()):
            self._tell(log, count)
        if found.more:
            self._row(done=found.done - sum(found.by_log.values()))
        elif self._news(found) or not _today(self.code, self.now):
            self._end(found)
        return found

    def _news(self, found: Outcome) -> bool:
        return bool(self.done or (found.held and not self.of.often))

    def _end(self, found: Outcome) -> None:
        """The row that says that nothing is left, with an event where there is news."""
        row = self._new(
            done=found.done - sum(found.by_log.values()), held=found.held, complete=True
        )
        if self.done or found.held:
            row.event_id = self._event(row, "success", done=self.done, held=found.held)
        row.save(force_insert=True)

    def _tell(self, log: str, count: int) -> None:
        """A log's own part: its event certifies that the values ended by this rule."""
        row = self._new(log=log, done=count, complete=True)
        row.event_id = audit.record(
            actor=audit.SYSTEM,
            action="retention.run",
            target=audit.Target("erasure", row.id),
            log=log,
            now=self.now,
            change=[
                audit.Change("rule", None, self.code),
                audit.Change("before", None, audit.stamp(self.before)),
                audit.Change("done", None, count),
            ],
        )
        row.save(force_insert=True)

    def _failed(self) -> None:
        with transaction.atomic():
            row = self._new(failed=1)
            row.event_id = self._event(row, "failure", done=self.done, failed=1)
            row.save(force_insert=True)

    def _event(self, row: RetentionRun, outcome: str, **counts: int) -> str:
        return audit.record(
            actor=audit.SYSTEM,
            action="retention.run",
            target=audit.Target("retention_run", row.id),
            log=audit.PLATFORM,
            now=self.now,
            outcome=outcome,
            change=[
                audit.Change("rule", None, self.code),
                audit.Change("before", None, audit.stamp(self.before)),
                *(audit.Change(name, None, count) for name, count in counts.items()),
            ],
        )

    def _row(self, **values: Any) -> None:
        self._new(**values).save(force_insert=True)

    def _new(self, **values: Any) -> RetentionRun:
        return RetentionRun(
            code=self.code,
            rule_id=self.rule.id,
            at=self.now,
            since=clean_until(self.code),
            before=self.before,
            **values,
        )


def _due(now: datetime) -> list[str]:
    """Codes with something to do, those first that waited longest."""
    newest: dict[str, datetime] = {}
    failed: set[str] = set()
    for code in _executors:
        last = RetentionRun.objects.filter(code=code, log="").order_by("-at", "-id").first()
        if last is None:
            continue
        newest[code] = last.at
        if last.failed and last.at > now - _RETRY:
            failed.add(code)
    waiting = [
        code
        for code, one in _executors.items()
        if code not in failed and (one.often or not _today(code, now))
    ]
    return sorted(waiting, key=lambda code: (newest.get(code, _EPOCH), code))


def _today(code: str, now: datetime) -> bool:
    """Whether it was carried out to its end on this day (UTC)."""
    midnight = now.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    found = RetentionRun.objects.filter(code=code, log="", complete=True)
    return found.filter(at__gte=midnight, at__lt=midnight + timedelta(days=1)).exists()


def _kept(held: Held, organization: str | Callable[[list[str]], Q], person: str) -> Q:
    """What holds keep; an empty Q where nothing is."""
    kept = Q()
    if organization and (ids := holds.organizations(held)):
        kept |= organization(ids) if callable(organization) else Q(**{f"{organization}__in": ids})
    if person and (people := holds.people(held)):
        kept |= Q(**{f"{person}__in": people})
    return kept
