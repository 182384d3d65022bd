"""What a subject may spend: budgets are set, changed and taken away here.

Gateways hold requests against them and settle what was used (migration 0004); the scaling of
dedicated endpoints reserves device-seconds from them (`leases`). A request may count against
`COUNTERS_MAX` counters, so the number of budgets that it can meet is bounded when they are set.
"""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from zoneinfo import ZoneInfo, available_timezones

from django.conf import settings
from django.db import transaction

from billing import errors, pseudonyms
from billing.models import Budget, Period, Subject, Unit
from compliance import audit, locks

# A gateway's record of a request has room for so many: four budgets of each subject, two for its
# run and for each of the three runs above it, the root's, and what billing sets. A deeper run is
# refused where it asks.
COUNTERS_MAX = 26
PER_SUBJECT_MAX = 4
PER_RUN_MAX = 2
AMOUNT_MAX = 10**18  # sums of two stay far within 64 bits
# Whose subject_id is a project's.
OF_PROJECTS = (Subject.PROJECT, Subject.AGENT, Subject.RUN, Subject.ROOT)


@dataclass(frozen=True)
class Owner:
    """Whose spending is bounded. The house knows whose it is; here these are plain ids."""

    organization_id: str
    region: str
    subject: str
    subject_id: str  # the project's for its agents and runs


def create(
    *,
    actor: audit.Actor,
    owner: Owner,
    unit: str,
    amount: int,
    window: str,
    now: datetime,
    allowance: int = 0,
    time_zone: str = "UTC",
    hard: bool = True,
    agent: str = "",
) -> Budget:
    """`amount` and `allowance` in nanoeuro, tokens or calls; `agent`: a name, of which only its
    pseudonym is kept. Raises errors.BudgetRefused, errors.BudgetConflict."""
    _check_choice("subject", owner.subject, Subject.values)
    _check_choice("unit", unit, Unit.values)
    _check_choice("window", window, Period.values)
    _check_zone(time_zone)
    _check_amounts(amount, allowance, hard)
    name = _reference(owner, agent)
    with alone(owner.subject, owner.subject_id):
        _check_room(owner, name, unit, window)
        budget = Budget.objects.create(
            organization_id=owner.organization_id,
            subject=owner.subject,
            subject_id=owner.subject_id,
            name=name,
            unit=unit,
            amount=amount,
            allowance=allowance,
            window=window,
            time_zone=time_zone,
            hard=hard,
            created_at=now,
        )
        fields = ("subject", "subject_id", "name", "unit", "amount", "allowance", "window")
        _record(
            budget,
            "create",
            actor,
            owner.region,
            now,
            [
                audit.Change(each, None, value)
                for each in (*fields, "time_zone", "hard")
                if (value := getattr(budget, each)) != ""
            ],
        )
    return budget


def update(
    *,
    actor: audit.Actor,
    budget: Budget,
    region: str,
    now: datetime,
    amount: int | None = None,
    allowance: int | None = None,
    hard: bool | None = None,
) -> Budget:
    """Changes only what is given; what was spent stays. Its window and zone are part of what a
    budget is: another window is another budget. Raises as `create`."""
    wanted = {"amount": amount, "allowance": allowance, "hard": hard}
    with transaction.atomic():
        budget = _live(budget)
        changes = [
            audit.Change(name, getattr(budget, name), value)
            for name, value in wanted.items()
            if value is not None and value != getattr(budget, name)
        ]
        if not changes:
            return budget
        for change in changes:
            setattr(budget, change.path, change.after)
        _check_amounts(budget.amount, budget.allowance, budget.hard)
        budget.save(update_fields=[change.path for change in changes])
        _record(budget, "update", actor, region, now, changes)
    return budget


def delete(*, actor: audit.Actor, budget: Budget, region: str, now: datetime) -> Budget:
    """It bounds nothing any more; what was counted stays. Raises errors.BudgetConflict."""
    with transaction.atomic():
        budget = _live(budget)
        budget.deleted_at = now
        budget.save(update_fields=["deleted_at"])
        _record(budget, "delete", actor, region, now, ())
    return budget


def limit_calls(*, actor: audit.Actor, owner: Owner, calls: int | None, now: datetime) -> None:
    """How many calls each run of the owner's project may make, all below it counted in; None: as
    many as it likes. One at a time for one project. Raises errors.BudgetRefused."""
    found = Budget.objects.filter(
        subject=Subject.ROOT, subject_id=owner.subject_id, deleted_at=None
    ).first()
    if calls is None:
        if found is not None:
            delete(actor=actor, budget=found, region=owner.region, now=now)
    elif found is not None:
        update(actor=actor, budget=found, region=owner.region, now=now, amount=calls)
    else:
        create(
            actor=actor, owner=owner, unit=Unit.CALLS, amount=calls, window=Period.TOTAL, now=now
        )


@contextmanager
def alone(subject: str, subject_id: str) -> Iterator[None]:
    """Budgets of one subject are made one after the other, so that they are counted right."""
    with transaction.atomic():
        locks.hold(f"budgets:{subject}:{subject_id}")
        yield


def _live(budget: Budget) -> Budget:
    found = Budget.objects.select_for_update(no_key=True).filter(pk=budget.pk, deleted_at=None)
    if (live := found.first()) is None:
        raise errors.BudgetConflict("the budget is deleted", code="budget_deleted")
    if live.by_billing:
        message = "it is what the account can pay: credit or the credit limit changes it"
        raise errors.BudgetConflict(message, code="budget_of_billing")
    return live


def _check_choice(field: str, value: str, known: list[str]) -> None:
    if value not in known:
        raise errors.BudgetRefused(f"{field} is one of {', '.join(known)}", field=field)


def _check_zone(name: str) -> None:
    if name not in available_timezones():
        message = f"{name!r:.80} is no time zone: expected such as Europe/Berlin"
        raise errors.BudgetRefused(message, field="time_zone")
    ZoneInfo(name)


def _check_amounts(amount: int, allowance: int, hard: bool) -> None:
    for field, value in (("amount", amount), ("allowance", allowance)):
        if not 0 <= value <= AMOUNT_MAX:
            raise errors.BudgetRefused(f"{field} is not below 0 and not beyond reason", field=field)
    if allowance and not hard:
        message = "only a hard budget has an allowance: one that warns stops nothing"
        raise errors.BudgetRefused(message, field="allowance")


def _reference(owner: Owner, agent: str) -> str:
    if not agent:
        return ""
    if owner.subject != Subject.AGENT:
        raise errors.BudgetRefused("only a budget of agents names one", field="agent")
    if not pseudonyms.NAME.fullmatch(agent):
        message = "a name has letters, digits and ._:@- only, at most 128"
        raise errors.BudgetRefused(message, field="agent")
    return pseudonyms.agent(pseudonyms.key(settings.KEY_PEPPER), owner.subject_id, agent)


def _check_room(owner: Owner, name: str, unit: str, window: str) -> None:
    live = list(
        Budget.objects.filter(
            subject=owner.subject, subject_id=owner.subject_id, deleted_at=None, by_billing=False
        ).values_list("name", "unit", "window")
    )
    if (name, unit, window) in live:
        message = f"there is a budget in {unit} for each {window} already: change that one"
        raise errors.BudgetConflict(message, code="budget_exists")
    if owner.subject != Subject.AGENT:
        count, most = len(live), PER_RUN_MAX if owner.subject == Subject.RUN else PER_SUBJECT_MAX
    else:
        # An agent meets those of its own name, and those that are for every agent.
        named = Counter(each for each, *_ in live)
        everybody = named.pop("", 0)
        own = named[name] if name else max(named.values(), default=0)
        count, most = everybody + own, PER_SUBJECT_MAX
    if count >= most:
        message = f"at most {most} budgets may count one {owner.subject}: delete one first"
        raise errors.BudgetConflict(message, code="too_many_budgets")


def _record(
    budget: Budget, verb: str, actor: audit.Actor, region: str, now: datetime, change: Any
) -> None:
    audit.record(
        actor=actor,
        action=f"budget.{verb}",
        target=audit.Target("budget", budget.id),
        log=budget.organization_id,
        now=now,
        region=region,
        change=change,
    )
