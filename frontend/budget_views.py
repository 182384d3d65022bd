"""Budgets of a project and its organization: set, see what is used, delete."""

from dataclasses import dataclass
from decimal import Decimal, InvalidOperation

from django import forms
from django.contrib import messages
from django.db.models import Q
from django.http.response import HttpResponseBase
from django.shortcuts import redirect

from billing import budgets, counters, errors
from billing.models import Budget, Subject, Unit
from controlplane.tenancy import access, spending
from controlplane.tenancy.access import Permission
from controlplane.tenancy.models import ApiKey
from frontend.visits import Request, Visit, page, show

_WHOSE = {
    "organization": "the whole organization",
    "project": "this project",
    "agent": "each agent of this project",
    "run": "each run of this project",
}
_UNITS = {"eur": Unit.NANO_EUR, "tokens": Unit.TOKENS, "calls": Unit.CALLS}
_PLACES = 9


class BudgetForm(forms.Form):
    whose = forms.ChoiceField(
        label="Bounds the spending of", choices=list(_WHOSE.items()), initial="project"
    )
    amount = forms.CharField(max_length=30, help_text="Such as 25 or 0.50")
    unit = forms.ChoiceField(
        choices=[("eur", "euro"), ("tokens", "tokens, in and out"), ("calls", "calls")]
    )
    window = forms.ChoiceField(
        label="In",
        initial="month",
        choices=[("day", "each day"), ("month", "each month"), ("total", "total")],
    )
    time_zone = forms.CharField(
        max_length=64,
        initial="UTC",
        help_text="Whose days and months: such as Europe/Berlin",
    )
    hard = forms.ChoiceField(
        label="When it is spent",
        choices=[("yes", "refuse what it does not pay for"), ("no", "only warn")],
    )

    def clean_amount(self) -> Decimal:
        try:
            amount = Decimal(self.cleaned_data["amount"].strip())
        except InvalidOperation:
            raise forms.ValidationError("A number, such as 25 or 0.50.") from None
        if not amount.is_finite() or not 0 <= amount < budgets.AMOUNT_MAX:
            raise forms.ValidationError("A number from zero up.")
        return amount

    def counted(self) -> int | None:
        """The amount in the unit as it is kept; None, with an error, where it is no whole one."""
        amount: Decimal = self.cleaned_data["amount"]
        if self.cleaned_data["unit"] == "eur":
            amount = amount.scaleb(_PLACES)
        if amount != amount.to_integral_value():
            self.add_error("amount", "That is too fine: euro have nine decimals, others none.")
            return None
        return int(amount)


@dataclass(frozen=True)
class Row:
    budget: Budget
    whose: str
    status: counters.Status | None
    percent: int  # spent, of the amount; 100 at most
    tone: str  # as _TONES in the templates' library


@page
def index(request: Request, visit: Visit) -> HttpResponseBase:
    """GET lists, POST sets one and lists again."""
    if request.method == "POST":
        wanted = request.POST.get("project", "")
        project = access.project(visit.principal, wanted, spending.SET)
        visit.enter(request, project)
    elif visit.project is None:
        return show(request, visit, "nowhere.html")
    else:
        project = access.project(visit.principal, visit.project.id, Permission.VIEW_COSTS)
    form = BudgetForm(request.POST or None)
    if request.method == "POST" and form.is_valid() and _set(visit, form, project.id):
        messages.success(request, "The budget is set.")
        return redirect("frontend:budgets")
    context = {"project": project, "form": form, "rows": _rows(visit)}
    refused = form.is_bound and not form.is_valid()
    return show(request, visit, "budgets.html", context, status=422 if refused else 200)


@page
def delete(request: Request, visit: Visit, id: str) -> HttpResponseBase:
    """GET asks once more, POST does it."""
    found = spending.budget(visit.principal, id, spending.SET)
    if request.method != "POST":
        row = _row(found.budget, _keys([found.budget]), None)
        return show(request, visit, "budget_delete.html", {"row": row})
    try:
        budgets.delete(
            actor=visit.principal.actor, budget=found.budget, region=found.region, now=visit.now
        )
    except errors.BudgetConflict as error:
        messages.error(request, str(error))
    else:
        messages.success(request, "The budget is deleted.")
    return redirect("frontend:budgets")


def _set(visit: Visit, form: BudgetForm, project_id: str) -> bool:
    data, amount = form.cleaned_data, form.counted()
    if amount is None or visit.organization is None:
        return False
    whose = data["whose"]
    place = visit.organization.id if whose == Subject.ORGANIZATION else project_id
    try:
        budgets.create(
            actor=visit.principal.actor,
            owner=spending.owner(visit.principal, whose, place, spending.SET),
            unit=_UNITS[data["unit"]],
            amount=amount,
            window=data["window"],
            time_zone=data["time_zone"],
            hard=data["hard"] == "yes",
            now=visit.now,
        )
    except errors.BudgetRefused as error:
        form.add_error(error.field if error.field in form.fields else None, str(error))
    except errors.BudgetConflict as error:
        form.add_error(None, str(error))
    return form.is_valid()


def _rows(visit: Visit) -> list[Row]:
    """Those of the organization, of the project, of its agents, runs and keys."""
    organization, project = visit.here()
    keys = ApiKey.objects.filter(project=project).values("id")
    found = list(
        spending.budgets(visit.principal)
        .filter(
            Q(subject=Subject.ORGANIZATION, subject_id=organization.id)
            | Q(subject__in=budgets.OF_PROJECTS, subject_id=project.id)
            | Q(subject=Subject.KEY, subject_id__in=keys)
        )
        .order_by("id")
    )
    found.sort(key=lambda one: Subject.values.index(one.subject))
    current = counters.current(found, visit.now)
    names = _keys(found)
    return [_row(budget, names, current.get(budget.id)) for budget in found]


def _keys(found: list[Budget]) -> dict[str, str]:
    ids = [one.subject_id for one in found if one.subject == Subject.KEY]
    return dict(ApiKey.objects.filter(id__in=ids).values_list("id", "name")) if ids else {}


def _row(budget: Budget, keys: dict[str, str], status: counters.Status | None) -> Row:
    whose = _WHOSE.get(budget.subject, f"key {keys.get(budget.subject_id, budget.subject_id)}")
    if budget.name:
        whose = f"agent {budget.name}"
    spent = status.spent if status else 0
    percent = min(100, spent * 100 // budget.amount if budget.amount else 100)
    tone = "bad" if percent >= 100 else "busy" if percent >= counters.THRESHOLDS[0] else "good"
    return Row(budget, whose, status, percent, tone)
