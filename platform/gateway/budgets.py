"""Budgets as the directory knows them, and which of them a request counts against."""

from collections.abc import Iterable
from dataclasses import dataclass

import msgspec

from gateway.usage import Usage

NANO_EUR, TOKENS, CALLS = "nano_eur", "tokens", "calls"
# Whose spending a budget bounds. `subject_id` is an organization's, project's or key's id; budgets
# of agents and runs belong to a project, and every agent and every run has a counter of its own.
# A root is a run with all that is below it: only the topmost run has a counter.
ORGANIZATION, PROJECT, KEY, AGENT, RUN = "organization", "project", "key", "agent", "run"
ROOT = "root"


class Budget(msgspec.Struct, frozen=True, gc=False):
    """`amount` and `allowance` in the unit: nanoeuro, tokens or calls.

    A hard budget refuses what it cannot pay for; the finishing allowance is what it may be
    overrun by so that answers are not cut short. Another one only warns.
    """

    id: str
    subject: str
    subject_id: str
    unit: str
    amount: int
    window: str  # day, month, total
    time_zone: str
    hard: bool
    allowance: int = 0
    name: str = ""  # of agent budgets: only this agent's


def measure(unit: str, used: Usage, nano_eur: int) -> int:
    """What a request that used so much counts for."""
    if unit == NANO_EUR:
        return nano_eur
    return used.input + used.output if unit == TOKENS else 1


@dataclass(frozen=True, slots=True)
class Run:
    """What a request says of its origin. References are pseudonyms, scoped to the project."""

    refs: tuple[str, ...] = ()  # of the run and of the runs above it, the root first
    agent: str = ""

    @property
    def path(self) -> str:
        return "/".join(self.refs)


NO_RUN = Run()


class Budgets:
    """An index of every budget of a region."""

    __slots__ = ("_by_subject", "all", "by_id")

    def __init__(self, budgets: Iterable[Budget] = ()) -> None:
        self.all = tuple(budgets)
        self.by_id = {budget.id: budget for budget in self.all}
        self._by_subject: dict[tuple[str, str], list[Budget]] = {}
        for budget in self.all:
            self._by_subject.setdefault((budget.subject, budget.subject_id), []).append(budget)

    def of(
        self, organization_id: str, project_id: str, key_id: str, run: Run, *, shared: bool
    ) -> list[tuple[Budget, str]]:
        """Each budget that counts the request, with the counter's suffix within its window.

        On a dedicated endpoint tokens are attribution: organization and project pay for its
        seconds, which its scaling reserves, so their money does not count here.
        """
        find = self._by_subject
        if not find:
            return []
        found: list[tuple[Budget, str]] = []
        for subject, subject_id in ((ORGANIZATION, organization_id), (PROJECT, project_id)):
            for budget in find.get((subject, subject_id), ()):
                if shared or budget.unit != NANO_EUR:
                    found.append((budget, ""))
        found += [(budget, "") for budget in find.get((KEY, key_id), ())]
        if run.agent:
            for budget in find.get((AGENT, project_id), ()):
                if not budget.name or budget.name == run.agent:
                    found.append((budget, f"/{run.agent}"))
        if run.refs:
            for budget in find.get((RUN, project_id), ()):
                found += [(budget, f"/{ref}") for ref in run.refs]
            found += [(budget, f"/{run.refs[0]}") for budget in find.get((ROOT, project_id), ())]
        return found
