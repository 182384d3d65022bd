"""Personal data: how long it is kept, what ended, what is held, and the record of processing."""

from typing import Any

from django import forms
from django.contrib import messages
from django.http.response import HttpResponseBase
from django.shortcuts import redirect
from django.views.decorators.http import require_POST, require_safe

from compliance.privacy import holds, periods, records, retention
from compliance.privacy.categories import CATEGORIES
from controlplane.tenancy import holding
from controlplane.tenancy.access import Permission
from controlplane.tenancy.errors import Invalid
from frontend import whose
from frontend.visits import Request, Visit, page, show
from frontend.whose import Whose

RUNS, VERSIONS, HOLDS = 50, 10, 50
_NAMES = {
    "controller": "Controller",
    "joint_controller": "Joint controller",
    "representative": "Representative",
    "dpo": "Data protection officer",
}


class HoldForm(forms.Form):
    subject = forms.CharField(
        label="Of whom (id)",
        max_length=31,
        help_text="A person (<code>usr_…</code>) or an organization (<code>org_…</code>).",
    )
    reason = forms.CharField(label="Why", max_length=holds.MAX_REASON)


class ContactForm(forms.Form):
    part = forms.ChoiceField(label="Who", choices=list(_NAMES.items()))
    name = forms.CharField(
        max_length=200, required=False, help_text="Empty: nobody is named any more."
    )
    address = forms.CharField(max_length=400, required=False)
    email = forms.CharField(label="E-mail", max_length=254, required=False)
    phone = forms.CharField(max_length=40, required=False)


@require_safe
@page
def index(request: Request, visit: Visit) -> HttpResponseBase:
    if visit.organization is None:
        return show(request, visit, "nowhere.html")
    return _page(request, visit, whose.of(visit, visit.organization.id))


@require_safe
@page
def operators(request: Request, visit: Visit) -> HttpResponseBase:
    return _page(request, visit, whose.operators(visit))


@require_POST
@page
def hold(request: Request, visit: Visit) -> HttpResponseBase:
    """Places one; what is wrong with it stands beside its field."""
    mine = whose.of_log(visit, request.POST.get("log", ""))
    form = HoldForm(request.POST)
    if form.is_valid():
        given = {"reason": form.cleaned_data["reason"], "now": visit.now}
        try:
            holding.place(
                principal=visit.principal,
                log=mine.log,
                subject_id=form.cleaned_data["subject"].strip(),
                **given,
            )
        except Invalid as error:
            form.add_error(error.field if error.field in form.fields else None, error.message)
    if form.errors:
        return _page(request, visit, mine, hold_form=form)
    messages.success(request, "The hold stands: nothing of this subject is erased or ends.")
    return redirect(mine.route("privacy"))


@require_POST
@page
def lift(request: Request, visit: Visit, id: str) -> HttpResponseBase:
    found = holding.find(visit.principal, id)
    mine = whose.of_log(visit, found.log)
    reason = request.POST.get("reason", "")
    try:
        holding.lift(principal=visit.principal, hold=found, reason=reason, now=visit.now)
    except Invalid as error:
        messages.error(request, error.message)
    else:
        messages.success(request, "The hold is lifted: what is due ends in the next pass.")
    return redirect(mine.route("privacy"))


@require_POST
@page
def contact(request: Request, visit: Visit) -> HttpResponseBase:
    mine = whose.of_log(visit, request.POST.get("log", ""))
    form = ContactForm(request.POST)
    if form.is_valid():
        try:
            holding.configure(
                principal=visit.principal, scope=mine.log, now=visit.now, **form.cleaned_data
            )
        except Invalid as error:
            form.add_error(error.field if error.field in form.fields else None, error.message)
    if form.errors:
        return _page(request, visit, mine, contact_form=form)
    messages.success(request, "The record of processing names them from now on.")
    return redirect(mine.route("privacy"))


def _page(
    request: Request,
    visit: Visit,
    mine: Whose,
    hold_form: HoldForm | None = None,
    contact_form: ContactForm | None = None,
) -> HttpResponseBase:
    rules = [(one, CATEGORIES[one.rule.category].title) for one in periods.schedule(visit.now)]
    versions = list(records.versions(mine.log)[: VERSIONS + 1])
    documents = [records.read(one) for one in versions]
    earlier = [*documents[1:], None][: len(documents)]
    changes = [
        (one, records.difference(before, after) if before else [])
        for one, after, before in zip(versions, documents, earlier, strict=True)
    ]
    context: dict[str, Any] = {
        "whose": mine,
        "rules": rules,
        "runs": retention.runs("" if mine.organization is None else mine.log)[:RUNS],
        "holds": holds.of(mine.log)[:HOLDS],
        "record": records.current(mine.log, visit.now),
        "contacts": [(name, records.contacts(mine.log).get(part)) for part, name in _NAMES.items()],
        "versions": changes[:VERSIONS],
        "may_hold": mine.organization is None or visit.can(Permission.MANAGE_OWNERS),
        "hold_form": hold_form or HoldForm(),
        "contact_form": contact_form or ContactForm(),
    }
    bad = hold_form is not None or contact_form is not None
    return show(request, visit, "privacy.html", context, status=422 if bad else 200)
