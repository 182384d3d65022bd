"""Where a log is sent: listed, asked for (the secret is shown once), and ended."""

from typing import Any

from django import forms
from django.contrib import messages
from django.http.response import HttpResponseBase
from django.shortcuts import redirect

from compliance.log import subscriptions
from compliance.models import LogSubscription
from controlplane.tenancy.errors import NotFound
from frontend import whose
from frontend.visits import Request, Visit, page, show
from frontend.whose import Whose

_PLAIN = {"autocapitalize": "none", "spellcheck": "false", "autocomplete": "off"}


class SubscriptionForm(forms.Form):
    kind = forms.ChoiceField(
        label="What is sent",
        choices=[
            ("heads", "heads: each day the newest signed head, to be kept by a witness"),
            ("events", "events: each as soon as it has its index, for a SIEM"),
        ],
    )
    via = forms.ChoiceField(
        label="By", choices=[("webhook", "webhook"), ("syslog", "syslog"), ("mail", "mail")]
    )
    address = forms.CharField(
        label="To",
        max_length=1_000,
        help_text="Such as <code>https://siem.example/in</code>, "
        "<code>syslog+tls://siem.example:6514</code> or an address for mail. It is sealed.",
        widget=forms.TextInput(attrs=_PLAIN),
    )
    form = forms.ChoiceField(
        label="Events as", choices=[("ocsf", "OCSF"), ("native", "they stand in the log")]
    )


@page
def index(request: Request, visit: Visit) -> HttpResponseBase:
    """GET lists; POST begins one and answers with its secret, which no redirect could carry."""
    if request.method == "POST":
        return _page(request, visit, whose.of(visit, request.POST.get("organization", "")))
    if visit.organization is None:
        return show(request, visit, "nowhere.html")
    return _page(request, visit, whose.of(visit, visit.organization.id))


@page
def operators(request: Request, visit: Visit) -> HttpResponseBase:
    """The same of the operator's own log: GET or POST."""
    return _page(request, visit, whose.operators(visit))


@page
def end(request: Request, visit: Visit, id: str) -> HttpResponseBase:
    """GET asks once more, POST does it."""
    found = LogSubscription.objects.filter(pk=id, ended_at=None).first()
    if found is None:
        raise NotFound("subscription")
    try:
        mine = whose.of_log(visit, found.owner)
    except NotFound:
        raise NotFound("subscription") from None
    if request.method != "POST":
        context = {"whose": mine, "subscription": found, "back": mine.route("subscriptions")}
        return show(request, visit, "subscription_end.html", context)
    subscriptions.unsubscribe(actor=visit.principal.actor, subscription=found, now=visit.now)
    messages.success(request, f"Nothing is sent to {found.host} any more.")
    return redirect(mine.route("subscriptions"))


def _page(request: Request, visit: Visit, mine: Whose) -> HttpResponseBase:
    form = SubscriptionForm(request.POST or None)
    made: LogSubscription | None = None
    secret = ""
    if request.method == "POST" and form.is_valid():
        try:
            made, secret = subscriptions.subscribe(
                actor=visit.principal.actor,
                owner=mine.log,
                region=mine.region,
                now=visit.now,
                **form.cleaned_data,
            )
            form = SubscriptionForm()
        except subscriptions.Refused as error:
            form.add_error(error.field if error.field in form.fields else None, str(error))
    context: dict[str, Any] = {
        "whose": mine,
        "form": form,
        "rows": subscriptions.of(mine.log),
        "made": made,
        "secret": secret,
        "place": mine.route("subscriptions"),
    }
    return show(request, visit, "subscriptions.html", context, status=422 if form.is_bound else 200)
