"""Signing in and out, and the choice of an organization and project."""

from django.contrib import messages
from django.contrib.auth.forms import AuthenticationForm
from django.contrib.auth.views import LoginView, LogoutView
from django.http import HttpRequest
from django.http.response import HttpResponseBase
from django.shortcuts import redirect
from django.utils.decorators import method_decorator
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_POST, require_safe

from controlplane.tenancy import access
from controlplane.tenancy.access import Permission
from frontend.visits import PLACE, Request, Visit, page, without_kms


class SignInForm(AuthenticationForm):
    error_messages = {  # noqa: RUF012 - as Django declares it
        "invalid_login": "This e-mail address and password do not go together.",
        "inactive": "This login was closed.",
    }


@method_decorator((never_cache, without_kms), name="dispatch")
class SignIn(LoginView):
    """Refusals say nothing about which logins there are; tenancy records both outcomes."""

    template_name = "frontend/sign_in.html"
    authentication_form = SignInForm
    redirect_authenticated_user = True


class SignOut(LogoutView):
    next_page = "frontend:sign-in"


@require_safe
def home(request: HttpRequest) -> HttpResponseBase:
    return redirect("frontend:endpoints")


@require_POST
@page
def switch(request: Request, visit: Visit) -> HttpResponseBase:
    """`place` is a project, or an organization that has none yet. Strangers' are not found."""
    place = request.POST.get("place", "")
    if place.startswith("org_"):
        name = access.organization(visit.principal, place, Permission.READ).name
    else:
        project = access.project(visit.principal, place, Permission.READ)
        name = f"{project.organization.name}, project {project.name}"
    request.session[PLACE] = place
    messages.success(request, f"You are in {name}.")
    return redirect("frontend:endpoints")
