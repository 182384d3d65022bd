"""Requests of data subjects: asked, answered within their clocks; and erasures, by two people."""

from typing import Any

from django import forms
from django.contrib import messages
from django.http import FileResponse
from django.http.response import HttpResponseBase
from django.shortcuts import redirect
from django.views.decorators.http import require_POST, require_safe

from compliance import exports
from compliance.erasure import executing, planning
from compliance.erasure.models import State
from compliance.models import SubjectRequest
from compliance.privacy.refusals import Refusal
from compliance.subject_requests import services
from controlplane.tenancy import access, data_requests
from controlplane.tenancy.access import Permission
from controlplane.tenancy.errors import TenancyError
from frontend.visits import Request, Visit, page, show

ROWS = 50
_TYPES = [
    ("access", "Access: what is held of me"),
    ("portability", "Portability: what I gave, as files"),
    ("rectification", "Rectification: something is wrong"),
    ("erasure", "Erasure"),
    ("restriction", "Restriction: keep it, and do not use it"),
    ("objection", "Objection"),
]


def _words(**more: Any) -> forms.CharField:
    return forms.CharField(max_length=services.MAX_WORDS, required=False, **more)


class AskForm(forms.Form):
    type = forms.ChoiceField(label="What", choices=_TYPES)
    subject = forms.CharField(
        label="Of whom (id)", required=False, max_length=31, help_text="Empty: of yourself."
    )
    words = _words(label="In your words", help_text="Sealed, and deleted with an erasure.")


class AnswerForm(forms.Form):
    """One answer at a time: `verb` says which; the other fields go with some."""

    verb = forms.ChoiceField(
        label="What is done",
        choices=[
            ("confirm", "It is shown who asks"),
            ("fail", "It could not be shown who asks"),
            ("extend", "Take two more months"),
            ("granted", "Grant it"),
            ("partly", "Grant it in part"),
            ("refused", "Refuse it"),
            ("close", "It is answered: close it"),
        ],
    )
    reason = forms.ChoiceField(
        label="Why it takes longer",
        required=False,
        choices=[("", "-"), *((one, one.replace("_", " ")) for one in services.EXTENSIONS)],
    )
    ground = forms.ChoiceField(
        label="Ground, if not all is granted",
        required=False,
        choices=[("", "-"), *services.GROUNDS.items()],
    )
    words = _words(label="In words", help_text="What was shown, or what whoever asked is told.")


@page
def index(request: Request, visit: Visit) -> HttpResponseBase:
    """GET lists; POST asks for oneself, or for somebody one answers for."""
    form = AskForm(request.POST or None)
    if request.method == "POST" and form.is_valid() and (made := _asked(visit, form)):
        messages.success(request, f"The request is entered; an answer is due by {made.due_on}.")
        return redirect("frontend:request", made.id)
    rows = data_requests.visible(visit.principal).order_by("-id")[:ROWS]
    late = {one.id for one in rows if one.overdue(visit.now)}
    context = {
        "form": form,
        "rows": [(one, one.id in late) for one in rows],
        "for_others": visit.principal.is_operator or visit.can(Permission.MANAGE_MEMBERS),
        "erasures": data_requests.erasures(visit.principal)[:ROWS],
    }
    return show(request, visit, "requests.html", context, status=422 if form.is_bound else 200)


@page
def detail(request: Request, visit: Visit, id: str) -> HttpResponseBase:
    """GET shows one; POST is an answer to it."""
    found = data_requests.find(visit.principal, id)
    answers = data_requests.may_answer(visit.principal, found)
    form = AnswerForm(request.POST or None)
    if request.method == "POST":
        found = data_requests.to_answer(visit.principal, id)
        if form.is_valid() and _answered(visit, found, form):
            messages.success(request, "That is noted.")
            return redirect("frontend:request", found.id)
    context = {
        "one": found,
        "late": found.overdue(visit.now),
        "ground": services.GROUNDS.get(found.refusal_ground, ""),
        "answers": answers and found.closed_at is None,
        "form": form,
        "bundles": _bundle(visit, found),
        "erasable": visit.principal.is_operator and found.type == "erasure" and found.subject_id,
    }
    return show(request, visit, "request.html", context, status=422 if form.is_bound else 200)


@require_POST
@page
def export(request: Request, visit: Visit, id: str) -> HttpResponseBase:
    """A bundle of what is held of whoever asked."""
    try:
        data_requests.export(visit.principal, id, visit.now)
        messages.success(request, "The bundle is being built: look again in a minute.")
    except Refusal as error:
        messages.error(request, error.message)
    return redirect("frontend:request", id)


@require_safe
@page
def file(request: Request, visit: Visit, id: str) -> HttpResponseBase:
    made = data_requests.exported(visit.principal, id)
    try:
        path = exports.downloaded(actor=visit.principal.actor, export=made, now=visit.now)
    except exports.ExportError as error:
        messages.error(request, error.message)
        return redirect("frontend:request", id)
    return FileResponse(path.open("rb"), as_attachment=True, filename=f"{made.id}.zip")


@require_POST
@page
def plan(request: Request, visit: Visit) -> HttpResponseBase:
    """A dry run, for another person to approve."""
    try:
        made = data_requests.plan_erasure(
            visit.principal,
            subject=request.POST.get("subject", ""),
            request=request.POST.get("request", ""),
            now=visit.now,
        )
    except (Refusal, TenancyError) as error:
        access.operator(visit.principal)
        messages.error(request, error.message)
        return redirect("frontend:requests")
    return redirect("frontend:erasure", made.id)


@page
def erasure(request: Request, visit: Visit, id: str) -> HttpResponseBase:
    """GET shows plan and outcome; POST approves the plan that was shown, or looks once more."""
    found = data_requests.erasure(visit.principal, id)
    if request.method == "POST":
        actor = visit.principal.actor
        try:
            if request.POST.get("verb") == "verify":
                others = request.POST.getlist("others")
                executing.verify(actor=actor, erasure=found, now=visit.now, others=others)
            else:
                digest = request.POST.get("plan_sha256", "")
                planning.approve(actor=actor, erasure=found, plan_sha256=digest, now=visit.now)
                messages.success(request, "Approved: a worker does it within a minute.")
        except Refusal as error:
            messages.error(request, error.message)
        return redirect("frontend:erasure", found.id)
    done = dict(found.steps.values_list("store", "outcome"))
    context = {
        "one": found,
        "steps": [(step, done.get(step["store"])) for step in found.plan["steps"]],
        "waits": found.state == State.PLANNED,
        "stopped": found.state == State.EXECUTED and found.failure,
    }
    return show(request, visit, "erasure.html", context)


def _asked(visit: Visit, form: AskForm) -> SubjectRequest | None:
    given = form.cleaned_data
    home = ""
    if given["subject"] and given["subject"] != visit.principal.user_id:
        home = (
            "" if visit.principal.is_operator or not visit.organization else visit.organization.id
        )
    try:
        return data_requests.ask(visit.principal, **given, organization=home, now=visit.now)
    except (Refusal, TenancyError) as error:
        form.add_error(error.field if error.field in form.fields else None, error.message)
        return None


def _answered(visit: Visit, found: SubjectRequest, form: AnswerForm) -> bool:
    given = form.cleaned_data
    verb, words = given["verb"], given["words"]
    actor, now = visit.principal.actor, visit.now
    try:
        if verb in ("confirm", "fail"):
            confirmed = verb == "confirm"
            services.verify(actor=actor, request=found, confirmed=confirmed, words=words, now=now)
        elif verb == "extend":
            reason = given["reason"]
            services.extend(actor=actor, request=found, reason=reason, words=words, now=now)
        elif verb == "close":
            services.close(actor=actor, request=found, now=now)
        else:
            ground = given["ground"]
            services.decide(
                actor=actor, request=found, decision=verb, ground=ground, words=words, now=now
            )
    except Refusal as error:
        form.add_error(error.field if error.field in form.fields else None, error.message)
        return False
    return True


def _bundle(visit: Visit, found: SubjectRequest) -> dict[str, Any] | None:
    """For a request that a bundle answers: whether one may be asked for, or is there."""
    theirs = visit.principal.user_id == found.subject_id or visit.principal.is_operator
    if found.type not in ("access", "portability") or not found.subject_id or not theirs:
        return None
    try:
        made = data_requests.exported(visit.principal, found.id)
    except TenancyError:
        return {"state": ""}
    return {"state": exports.status(made, visit.now)}
