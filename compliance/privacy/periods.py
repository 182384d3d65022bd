"""Which period holds: versioned rows over the published schedule.

    rule = periods.in_force("quote", now)

The rows follow the published schedule (`sync`, in each pass of the workers) except where an
operator has set a period (`change`), within the rule's floor and ceiling. A version that is over
keeps its row, so that what held on any day can be said.
"""

import math
from dataclasses import dataclass, replace
from datetime import datetime

from django.conf import settings
from django.db import transaction
from django.db.models import Q, QuerySet

from compliance import audit, locks
from compliance.privacy.models import RetentionRule
from compliance.privacy.refusals import Wrong
from compliance.privacy.rules import UNITS, Period, Rule
from compliance.privacy.schedule import PUBLISHED

_LOCK = "retention.schedule"
_MOST = 100_000
# What an environment variable sets, as the settings know it.
_SECONDS = {
    "STOA_FILES_KEPT_S": "FILES_KEPT_S",
    "STOA_UPLOADS_UNFINISHED_S": "UPLOADS_UNFINISHED_S",
    "STOA_RUNS_KEPT_S": "RUNS_KEPT_S",
}


@dataclass(frozen=True)
class InForce:
    """A rule with the period that holds. `id`: of its row; empty before the first pass."""

    rule: Rule
    id: str = ""
    since: datetime | None = None
    set_by: str = ""

    @property
    def period(self) -> Period | None:
        return self.rule.period


def published() -> dict[str, Rule]:
    """The schedule as it is shipped, with what the installation's settings say."""
    return {code: _as_set(rule) for code, rule in PUBLISHED.items()}


def in_force(code: str, at: datetime) -> InForce:
    """Raises KeyError on a code that is none."""
    row = versions(code).filter(_at(at)).first()
    return of_row(row) if row else InForce(published()[code])


def until(code: str, start: datetime) -> datetime | None:
    """When what began then is over, by the rule as it holds then; None where it has no period."""
    period = in_force(code, start).period
    return period.after(start) if period else None


def schedule(at: datetime) -> list[InForce]:
    """Every rule as it was at that moment, by code."""
    rows = {row.code: of_row(row) for row in RetentionRule.objects.filter(_at(at))}
    rest = {code: InForce(rule) for code, rule in published().items() if code not in rows}
    return [one for _, one in sorted((rows | rest).items())]


def versions(code: str = "") -> QuerySet[RetentionRule]:
    found = RetentionRule.objects.order_by("code", "effective_from", "id")
    return found.filter(code=code) if code else found


def of_row(row: RetentionRule) -> InForce:
    """The rule as a version of it says."""
    period = None if row.amount is None else Period(row.amount, row.unit, row.calendar_year)
    known = PUBLISHED.get(row.code)
    rule = Rule(
        code=row.code,
        category=row.category,
        basis=row.basis,
        period=period,
        starts=row.starts,
        action=row.action,
        source=row.source,
        jurisdiction=row.jurisdiction,
        ground=row.ground,
        floor=known.floor if known else None,
        ceiling=known.ceiling if known else None,
        setting=known.setting if known else "",
    )
    return InForce(rule, row.id, row.effective_from, row.created_by)


def sync(now: datetime) -> int:
    """Bring the rows to what is published; how many versions were written. May be repeated."""
    wanted = published()
    if not _differing(wanted):
        return 0
    with transaction.atomic():
        locks.hold(_LOCK)
        differing = _differing(wanted)
        for code, row in differing.items():
            if row is not None:
                _close(row, now)
            if code in wanted:
                _write(wanted[code], now, now, "")
        if differing:
            audit.record(
                actor=audit.SYSTEM,
                action="retention.publish",
                target=audit.Target("retention_schedule", "published"),
                log=audit.PLATFORM,
                now=now,
                change=[_change(code, row, wanted.get(code)) for code, row in differing.items()],
            )
    return len(differing)


def change(
    *,
    actor: audit.Actor,
    code: str,
    amount: int,
    unit: str,
    reason: str,
    now: datetime,
    effective_from: datetime | None = None,
) -> InForce:
    """Set another period from a moment on (at once unless it is said). Raises Wrong."""
    if code not in PUBLISHED:
        raise Wrong("unknown_rule", "no such rule", "code")
    start = effective_from or now
    rule = _checked(published()[code], amount, unit, reason, start >= now)
    with transaction.atomic():
        locks.hold(_LOCK)
        current = RetentionRule.objects.filter(code=code, effective_to=None).first()
        if current and current.created_by and _same(of_row(current).rule, rule):
            return of_row(current)
        if current and current.effective_from > start:
            raise Wrong(
                "later_change", "a later change is set: change from then on", "effective_from"
            )
        if current:
            _close(current, start)
        row = _write(rule, start, now, actor.id)
        audit.record(
            actor=actor,
            action="retention.change",
            target=audit.Target("retention_rule", code),
            log=audit.PLATFORM,
            now=now,
            change=[
                _change("period", current, rule),
                audit.Change("effective_from", None, audit.stamp(start)),
            ],
            personal={"reason": reason},
        )
    return of_row(row)


def _checked(rule: Rule, amount: int, unit: str, reason: str, in_time: bool) -> Rule:
    """The rule with that period. Raises Wrong."""
    if rule.setting:
        raise Wrong("set_elsewhere", f"{rule.setting} sets this period", "code")
    if rule.period is None or rule.floor is None or rule.ceiling is None:
        raise Wrong("fixed", "this rule has no period that may be set", "code")
    if unit not in UNITS or not 0 <= amount <= _MOST:
        raise Wrong("invalid", f"0 to {_MOST} of {', '.join(UNITS)}", "amount")
    period = Period(amount, unit, rule.period.calendar_year)
    if not rule.floor.length() <= period.length() <= rule.ceiling.length():
        raise Wrong("out_of_bounds", f"from {rule.floor} to {rule.ceiling}", "amount")
    if not 3 <= len(reason.strip()) <= 500:
        raise Wrong("invalid_reason", "say why, in 3 to 500 characters", "reason")
    if not in_time:
        raise Wrong("too_late", "a period holds from now on at the earliest", "effective_from")
    return replace(rule, period=period)


def _as_set(rule: Rule) -> Rule:
    if rule.setting == "STOA_METER_EVIDENCE_DAYS":
        return replace(rule, period=Period(settings.METER_EVIDENCE_DAYS, "days"))
    if rule.setting:
        return replace(rule, period=_seconds(getattr(settings, _SECONDS[rule.setting])))
    return rule


def _seconds(value: float) -> Period:
    whole = math.ceil(value)
    for unit, length in (("days", 86_400), ("hours", 3_600)):
        if whole and whole % length == 0:
            return Period(whole // length, unit)
    return Period(whole, "seconds")


def _differing(wanted: dict[str, Rule]) -> dict[str, RetentionRule | None]:
    """Codes whose open row is not as published: with it, or None. What an operator set stays."""
    rows = {row.code: row for row in RetentionRule.objects.filter(effective_to=None)}
    return {
        code: rows.get(code)
        for code in sorted(wanted.keys() | rows.keys())
        if code not in rows
        or code not in wanted
        or (not rows[code].created_by and not _same(of_row(rows[code]).rule, wanted[code]))
    }


def _same(one: Rule, other: Rule) -> bool:
    """As far as rows tell."""
    return replace(one, floor=None, ceiling=None, setting="") == replace(
        other, floor=None, ceiling=None, setting=""
    )


def _write(rule: Rule, start: datetime, now: datetime, by: str) -> RetentionRule:
    return RetentionRule.objects.create(
        code=rule.code,
        category=rule.category,
        basis=rule.basis,
        amount=rule.period.amount if rule.period else None,
        unit=rule.period.unit if rule.period else "",
        calendar_year=bool(rule.period and rule.period.calendar_year),
        starts=rule.starts,
        action=rule.action,
        jurisdiction=rule.jurisdiction,
        source=rule.source,
        ground=rule.ground,
        effective_from=start,
        created_at=now,
        created_by=by,
    )


def _close(row: RetentionRule, at: datetime) -> None:
    row.effective_to = max(at, row.effective_from)
    row.save(update_fields=["effective_to"])


def _change(path: str, row: RetentionRule | None, rule: Rule | None) -> audit.Change:
    before = str(of_row(row).period or "no period") if row else None
    return audit.Change(path, before, str(rule.period or "no period") if rule else None)


def _at(at: datetime) -> Q:
    return Q(effective_from__lte=at) & (Q(effective_to=None) | Q(effective_to__gt=at))
