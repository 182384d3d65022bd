"""A budget as the pages show it: whose it is, and the bar of what is spent, held and free."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from billing.models import Budget, Subject
from billing.spending import counters
from controlplane.tenancy.models import ApiKey

WHOSE = {
    "organization": "the whole organization",
    "project": "this project",
    "key": "one API key",
    "agent": "each agent of this project",
    "run": "each run of this project",
}
_WIDTH = 1000  # of a bar, in the units of its picture


@dataclass(frozen=True)
class Row:
    budget: Budget
    whose: str
    status: counters.Status | None  # None: each agent or run has its own
    percent: int  # spent, of the amount
    tone: str  # as _TONES in the templates' library
    spent_width: int  # of the bar's 1000; what is neither is free
    held_width: int


def key_names(found: Iterable[Budget]) -> dict[str, str]:
    """What the keys are called that these budgets are of, by id."""
    ids = [one.subject_id for one in found if one.subject == Subject.KEY]
    return dict(ApiKey.objects.filter(id__in=ids).values_list("id", "name")) if ids else {}


def budget_row(budget: Budget, keys: Mapping[str, str], status: counters.Status | None) -> Row:
    whose = WHOSE[budget.subject]
    if budget.subject == Subject.KEY:
        whose = f"key {keys.get(budget.subject_id, budget.subject_id)}"
    if budget.by_billing:
        whose = "what the account can pay"
    if budget.name:
        whose = f"agent {budget.name}"
    spent, held = (status.spent, status.outstanding) if status else (0, 0)
    percent = spent * 100 // budget.amount if budget.amount else 100
    tone = "bad" if percent >= 100 else "busy" if percent >= counters.THRESHOLDS[0] else "good"
    whole = max(budget.amount, spent + held, 1)
    return Row(
        budget, whose, status, percent, tone, spent * _WIDTH // whole, held * _WIDTH // whole
    )
