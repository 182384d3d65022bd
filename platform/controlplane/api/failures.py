"""What Django itself refuses: a problem for programs, a page for people, by where they asked."""

from django.http import HttpRequest
from django.http.response import HttpResponseBase
from django.views import defaults

from controlplane.api import problems

_PROGRAMS = ("/api/", "/agent/")


def bad_request(request: HttpRequest, exception: Exception) -> HttpResponseBase:
    """Not of the exception: its words are about us, such as the hosts that we answer to."""
    if _by_program(request):
        return problems.response(400, "bad_request", "This request cannot be read.")
    return defaults.bad_request(request, exception)


def not_found(request: HttpRequest, exception: Exception) -> HttpResponseBase:
    if _by_program(request):
        return problems.response(404, "not_found", "There is nothing here.")
    return defaults.page_not_found(request, exception)


def server_error(request: HttpRequest) -> HttpResponseBase:
    if _by_program(request):
        return problems.response(500, "internal_error", "Something broke here, and was logged.")
    return defaults.server_error(request)


def _by_program(request: HttpRequest) -> bool:
    return request.path_info.startswith(_PROGRAMS)
