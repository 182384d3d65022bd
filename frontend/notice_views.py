"""What the operator tells the organization, above each page until somebody closes it."""

from django.http.response import HttpResponseBase
from django.shortcuts import redirect
from django.utils.http import url_has_allowed_host_and_scheme
from django.views.decorators.http import require_POST

from controlplane.tenancy import access, notices
from controlplane.tenancy.access import Permission
from frontend.visits import Request, Visit, page


@require_POST
@page
def close(request: Request, visit: Visit, id: str) -> HttpResponseBase:
    """Close it, and back to where it was read."""
    notice = access.notice(visit.principal, id, Permission.MANAGE_ENDPOINTS)
    notices.close(actor=visit.principal.actor, notice=notice, now=visit.now)
    back = request.POST.get("back", "")
    if not back.startswith("/") or not url_has_allowed_host_and_scheme(back, allowed_hosts=None):
        back = "frontend:endpoints"
    return redirect(back)
