"""The bank account, for the operator: statements, what nobody can tell, debits, reconciliation."""

import tempfile
from datetime import UTC, date, datetime, timedelta
from typing import Any

from django import forms
from django.contrib import messages
from django.http import FileResponse, Http404, HttpResponse
from django.http.response import HttpResponseBase
from django.shortcuts import redirect
from django.views.decorators.http import require_POST, require_safe

from billing import errors, months
from billing.books import closing, datev, journal, reconciliation
from billing.models import BankStatement, BooksClosing, CollectionFile
from billing.payments import debits, statements
from billing.payments.overdue import overdue
from billing.sepa.statements import StatementRefused
from controlplane.api.invoice_views import download
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
        "me": visit.principal.actor.id,
        "asked_since": visit.now - closing.AGREED_WITHIN,
        "journals": _journals(visit.now),
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


@require_POST
@page
def reopen(request: Request, visit: Visit, month: str) -> HttpResponseBase:
    """Ask for closed books to be opened again, or agree; either is confirmed by a tick."""
    access.operator(visit.principal)
    who: dict[str, Any] = {"actor": visit.principal.actor, "now": visit.now}
    try:
        if not request.POST.get("sure"):
            raise errors.BooksRefused("tick that you are sure")
        if request.POST.get("agree"):
            closing.reopen(_month(month), **who)
            messages.success(request, f"The books of {month} are open again.")
        else:
            closing.ask_reopen(_month(month), request.POST.get("reason", ""), **who)
            messages.success(request, "You have asked: another operator agrees within a day.")
    except errors.BooksRefused as error:
        messages.error(request, str(error))
    return redirect("frontend:billing-bank")


@require_safe
@page
def journaled(request: Request, visit: Visit, month: str, form: str) -> HttpResponseBase:
    """The journal of a month: JSON lines, or for DATEV."""
    access.operator(visit.principal)
    start = closing.bounds(_month(month))[0]
    if form == "datev":
        try:
            content = datev.write(start.date(), visit.now)
        except errors.BooksRefused as error:
            messages.error(request, str(error))
            return redirect("frontend:billing-bank")
        return download(content, "text/csv", f"EXTF_Buchungsstapel_{month}.csv")
    if form != "jsonl":
        raise Http404("form")
    file = tempfile.TemporaryFile()  # noqa: SIM115 - the answer closes it
    journal.write(file, start, months.after(start))
    file.seek(0)
    return FileResponse(file, as_attachment=True, filename=f"journal-{month}.jsonl")


def _month(text: str) -> date:
    try:
        return date.fromisoformat(f"{text}-01")
    except ValueError:
        raise Http404("month") from None


def _journals(now: datetime) -> list[str]:
    """The last twelve months that are over, the newest first."""
    found, first = [], now.astimezone(UTC).date().replace(day=1)
    for _ in range(12):
        first = (first - timedelta(days=1)).replace(day=1)
        found.append(f"{first:%Y-%m}")
    return found


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
