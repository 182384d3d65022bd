"""Who visits, and which organization and project they look at."""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property, wraps
from typing import Any, Concatenate, ParamSpec

from django.contrib.auth.views import redirect_to_login
from django.core.exceptions import PermissionDenied
from django.http import Http404, HttpRequest, HttpResponse
from django.http.response import HttpResponseBase
from django.shortcuts import render
from django.utils import timezone
from django.views.decorators.cache import never_cache
from django_htmx.http import HttpResponseClientRefresh
from django_htmx.middleware import HtmxDetails

from compliance.keys import KmsAway
from controlplane.tenancy import access, denials, notices
from controlplane.tenancy.access import Permission, Principal
from controlplane.tenancy.errors import Forbidden, NotFound
from controlplane.tenancy.models import Notice, Organization, Project, User

PLACE = "place"  # the session's word for the chosen project, or organization without one

P = ParamSpec("P")

log = logging.getLogger(__name__)


class Request(HttpRequest):
    """As a view finds it behind the middleware."""

    htmx: HtmxDetails


@dataclass
class Visit:
    principal: Principal
    now: datetime
    organization: Organization | None = None
    project: Project | None = None
    projects: list[Project] = field(default_factory=list)  # all that may be chosen
    empty: list[Organization] = field(default_factory=list)  # theirs, without a project yet

    @cached_property
    def notices(self) -> list[Notice]:
        """What the operator has told the organization chosen, and nobody there has closed."""
        return [] if self.organization is None else notices.open_of(self.organization)

    def can(self, need: Permission) -> bool:
        """Whether to offer it; the verb's own view asks `access` again."""
        if self.organization is None:
            return False
        return need in self.principal.permissions(self.organization.id)

    @property
    def may(self) -> dict[str, bool]:
        """The same for templates: `visit.may.manage_keys`."""
        return {need.value: self.can(need) for need in Permission}

    def here(self) -> tuple[Organization, Project]:
        """The place chosen; NotFound for somebody who has none."""
        if self.organization is None or self.project is None:
            raise NotFound("project")
        return self.organization, self.project

    def enter(self, request: HttpRequest, project: Project) -> None:
        """A thing was opened by its address: from here on its project is the chosen one."""
        self.organization, self.project = project.organization, project
        if request.session.get(PLACE) != project.id:
            request.session[PLACE] = project.id

    def enter_organization(self, request: HttpRequest, id: str) -> None:
        """The same for a thing of a whole organization: who is there already stays."""
        if self.organization is not None and self.organization.id == id:
            return
        for project in self.projects:
            if project.organization_id == id:
                return self.enter(request, project)
        self.project = None
        self.organization = next(one for one in self.empty if one.id == id)


def without_kms(view: Callable[..., HttpResponseBase]) -> Callable[..., HttpResponseBase]:
    """Where keys cannot be had, a page says that nothing was changed and what still works."""

    @wraps(view)
    def shown(request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponseBase:
        try:
            return view(request, *args, **kwargs)
        except KmsAway as error:
            log.error("no key management: %s", error)
            return render(request, "503.html", status=503)

    return shown


def page(
    view: Callable[Concatenate[Request, Visit, P], HttpResponseBase],
) -> Callable[Concatenate[HttpRequest, P], HttpResponseBase]:
    """A view for people who are signed in. The house's refusals become the pages that say so."""

    @wraps(view)
    def shown(request: HttpRequest, *args: P.args, **kwargs: P.kwargs) -> HttpResponseBase:
        by_htmx = bool(getattr(request, "htmx", False))
        fragment = by_htmx and request.method == "GET"
        if not isinstance(request.user, User):
            # A fragment has no place for the sign-in page: the whole page goes there.
            return (
                HttpResponseClientRefresh()
                if by_htmx
                else redirect_to_login(request.get_full_path())
            )
        try:
            return view(request, begin(request, request.user), *args, **kwargs)  # type: ignore[arg-type]
        except (NotFound, Forbidden) as error:
            if isinstance(error, Forbidden):
                denials.note(error, now=timezone.now())
            if fragment:
                return HttpResponseClientRefresh()
            if isinstance(error, Forbidden):
                raise PermissionDenied(error.message) from error
            raise Http404(error.message) from error
        except (Http404, PermissionDenied, KmsAway):
            raise
        except Exception:
            if request.method == "POST":
                denials.failed(access.principal_for_user(request.user), now=timezone.now())
            raise

    return never_cache(without_kms(shown))


def begin(request: HttpRequest, user: User) -> Visit:
    """The visit of a person, at the place that was chosen before, else at the first there is."""
    principal = access.principal_for_user(user)
    organizations = list(access.organizations(principal).order_by("name", "id"))
    projects = list(
        access.projects(principal)
        .select_related("organization")
        .order_by("organization__name", "organization_id", "created_at", "id")
    )
    inhabited = {project.organization_id for project in projects}
    visit = Visit(principal=principal, now=timezone.now(), projects=projects)
    visit.empty = [one for one in organizations if one.id not in inhabited]
    _choose(visit, str(request.session.get(PLACE, "")))
    return visit


def show(
    request: HttpRequest,
    visit: Visit,
    template: str,
    context: Mapping[str, Any] | None = None,
    *,
    status: int = 200,
) -> HttpResponse:
    """Render `frontend/<template>`, with the visit at hand."""
    return render(
        request, f"frontend/{template}", {"visit": visit, **(context or {})}, status=status
    )


def _choose(visit: Visit, wanted: str) -> None:
    projects = {project.id: project for project in visit.projects}
    empty = {organization.id: organization for organization in visit.empty}
    if wanted in projects:
        visit.project = projects[wanted]
    elif wanted in empty:
        visit.organization = empty[wanted]
    elif visit.projects:
        visit.project = visit.projects[0]
    elif visit.empty:
        visit.organization = visit.empty[0]
    if visit.project is not None:
        visit.organization = visit.project.organization
