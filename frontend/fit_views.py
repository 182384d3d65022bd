"""Whether what somebody is typing would fit, and what it would cost: the panel beside the form.

It says what the verb would say: `endpoints.foresight`, and billing's own prices.
"""

from collections.abc import Callable
from decimal import Decimal

from django import forms
from django.http.response import HttpResponseBase
from django.views.decorators.http import require_POST

from controlplane import pace
from controlplane.endpoints import access as endpoint_access
from controlplane.endpoints import foresight
from controlplane.endpoints.errors import Invalid
from controlplane.endpoints.foresight import Foresight
from controlplane.tenancy import access
from controlplane.tenancy.access import Permission
from controlplane.tenancy.errors import NotFound
from controlplane.tenancy.models import Organization
from frontend import create_views, fit_panel, rates
from frontend.endpoint_form import DraftForm, field_of
from frontend.fit_panel import Panel
from frontend.version_views import ChangeForm
from frontend.visits import Request, Visit, page, show

_NO_MODEL = "Name a model: what it takes here and what it costs appears while you type."


@require_POST
@page
def wish(request: Request, visit: Visit) -> HttpResponseBase:
    """The panel of the form that makes an endpoint; it is sent as far as it is filled in."""
    id = request.POST.get("project", "")
    project = access.project(visit.principal, id, Permission.MANAGE_ENDPOINTS)
    form = create_views.form_of(DraftForm, request.POST, visit, project)
    if not form.is_valid():
        return _shown(request, visit, _unfinished(form))
    return _foreseen(
        request,
        visit,
        project.organization,
        form,
        lambda: foresight.of_wish(project, form.spec(), visit.now),
    )


@require_POST
@page
def change(request: Request, visit: Visit, id: str) -> HttpResponseBase:
    """The panel of the form that changes an endpoint's version."""
    endpoint = endpoint_access.endpoint(visit.principal, id, Permission.MANAGE_ENDPOINTS)
    form = ChangeForm(request.POST)
    form.fields["strategy"].required = False
    if not form.is_valid():
        return _shown(request, visit, _unfinished(form))
    return _foreseen(
        request,
        visit,
        endpoint.project.organization,
        form,
        lambda: foresight.of_change(endpoint, form.changes(), visit.now),
    )


def _foreseen(
    request: Request,
    visit: Visit,
    organization: Organization,
    form: forms.Form,
    look: Callable[[], Foresight],
) -> HttpResponseBase:
    try:
        with pace.PREDICTIONS.paid(visit.principal.user_id or ""):
            found = look()
    except pace.TooFast as error:
        context = {"panel": fit_panel.waiting(f"{error}.".capitalize()), "again_s": error.wait_s}
        return show(request, visit, "_fit.html", context)
    except (Invalid, NotFound) as error:
        name = field_of(error.field, form.fields)
        return _shown(request, visit, _refused(form, name, error.message))
    spec = found.spec
    account = organization.account
    hours = rates.device_hours([spec.device_kind], account=account, now=visit.now)
    hour: Decimal | None = hours.get(spec.device_kind)
    costs = fit_panel.price(spec, hour, account.currency)
    return _shown(request, visit, fit_panel.of(found, costs))


def _unfinished(form: forms.Form) -> Panel:
    """What is missing first, or what cannot be read."""
    for name, errors in form.errors.items():
        if name == "model" and not form.data.get("model"):
            return fit_panel.waiting(_NO_MODEL)
        return _refused(form, name, str(errors[0]))
    return fit_panel.waiting(_NO_MODEL)


def _refused(form: forms.Form, name: str, message: str) -> Panel:
    label = form[name].label if name in form.fields else ""
    text = f"{label}: {message}" if label else message
    return fit_panel.waiting(text, blames=name or "__all__", title="Cannot be so")


def _shown(request: Request, visit: Visit, panel: Panel) -> HttpResponseBase:
    return show(request, visit, "_fit.html", {"panel": panel})
