"""The bank account, for the operator: statements, what nobody can tell, debits, reconciliation."""

from typing import Any

from django import forms
from django.contrib import messages
from django.http import Http404, HttpResponse
from django.http.response import HttpResponseBase
from django.shortcuts import redirect
from django.views.decorators.http import require_POST, require_safe

from billing import errors
from billing.books import reconciliation
from billing.models import BankStatement, BooksClosing, CollectionFile
from billing.payments import debits, statements
from billing.payments.overdue import overdue
from billing.sepa.statements import StatementRefused
from controlplane.tenancy import access
from frontend.visits import Request, Visit, page, show

NEWEST = 20
FILE_MAX = 20 << 20
_REFUSALS = (StatementRefused, errors.PaymentRefused, errors.UnknownAccount)


class StatementForm(forms.Form):
    file = forms.FileField(label="Statement (camt.053)")


class DecisionForm(forms.Form):
    """Exactly one of these says what a movement was."""

    account = forms.CharField(label="Payment of account", max_length=31, required=False)
    payment = forms.CharField(label="Refund of payment", max_length=31, required=False)
    what = forms.ChoiceField(
        label="Or",
        required=False,
        choices=(
            ("", "…"),
            ("fee", "a fee of the bank"),
            ("own", "our own transfer"),
            ("payout", "a provider's payout"),
        ),
    )


@page
def index(request: Request, visit: Visit) -> HttpResponseBase:
    """GET shows; POST books a statement."""
    access.operator(visit.principal)
    form = StatementForm(request.POST or None, request.FILES or None)
    writes = request.method == "POST"
    if writes and form.is_valid() and _booked(request, visit, form):
        return redirect("frontend:billing-bank")
    context = {
        "form": form,
        "undecided": [(one, DecisionForm(auto_id=f"{one.id}-%s")) for one in _undecided()],
        "statements": BankStatement.objects.order_by("-id")[:NEWEST],
        "files": CollectionFile.objects.defer("content").order_by("-id")[:NEWEST],
        "overdue": list(overdue(visit.now))[:NEWEST],
        "reconciliation": reconciliation.newest(),
        "closings": BooksClosing.objects.filter(reopened_at=None).order_by("-month")[:12],
    }
    return show(request, visit, "billing_bank.html", context, status=422 if writes else 200)


@require_POST
@page
def decide(request: Request, visit: Visit, id: str) -> HttpResponseBase:
    """Say what a movement was."""
    access.operator(visit.principal)
    form = DecisionForm(request.POST)
    if form.is_valid():
        try:
            _decide(id, form.cleaned_data, visit)
        except _REFUSALS as error:
            messages.error(request, str(error))
        else:
            messages.success(request, "It is decided.")
    return redirect("frontend:billing-bank")


@require_POST
@page
def collect(request: Request, visit: Visit) -> HttpResponseBase:
    """Make the files of the debits that are due."""
    access.operator(visit.principal)
    made = debits.collect(actor=visit.principal.actor, now=visit.now)
    count = sum(one.debits for one in made)
    messages.success(request, f"{count} debits are in {len(made)} files.")
    return redirect("frontend:billing-bank")


@require_safe
@page
def content(request: Request, visit: Visit, id: str) -> HttpResponseBase:
    """A file for the bank."""
    access.operator(visit.principal)
    found = CollectionFile.objects.filter(pk=id).first()
    if found is None:
        raise Http404("file")
    named = {"Content-Disposition": f'attachment; filename="{found.message}.xml"'}
    return HttpResponse(bytes(found.content), content_type="application/xml", headers=named)


def _undecided() -> list[Any]:
    return statements.undecided()[:100]


def _booked(request: Request, visit: Visit, form: StatementForm) -> bool:
    file: Any = form.cleaned_data["file"]
    if (file.size or 0) > FILE_MAX:
        form.add_error("file", "A statement of more than 20 MiB.")
        return False
    try:
        done = statements.read(file.read(), actor=visit.principal.actor, now=visit.now)
    except _REFUSALS as error:
        form.add_error("file", str(error))
        return False
    for each in done:
        messages.success(
            request,
            f"{each.statement.name}: {each.booked} movements booked, {each.duplicates} known,"
            f" {len(each.open)} to decide.",
        )
    return True


def _decide(id: str, said: dict[str, str], visit: Visit) -> None:
    who: dict[str, Any] = {"actor": visit.principal.actor, "now": visit.now}
    chosen = [name for name in ("account", "payment", "what") if said[name].strip()]
    if len(chosen) != 1:
        raise errors.PaymentRefused("say exactly one thing that it was")
    if chosen == ["account"]:
        statements.assign(id, said["account"].strip(), **who)
    elif chosen == ["payment"]:
        statements.refunded(id, said["payment"].strip(), **who)
    else:
        statements.explain(id, said["what"], **who)
