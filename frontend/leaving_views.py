"""For everybody: what can be taken elsewhere, in which structures, and how (Data Act, Art. 26)."""

import hashlib

from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import render
from django.views.decorators.http import require_safe

from controlplane.switching import register


@require_safe
def index(request: HttpRequest) -> HttpResponse:
    """The procedure and the list, of the very schemas that bundles are written by."""
    content = register.content()
    said = register.whole() | {"sha256": hashlib.sha256(content).hexdigest()}
    return render(request, "frontend/leaving.html", {"said": said, "charges": said["charges"]})


@require_safe
def listed(request: HttpRequest) -> HttpResponse:
    """register.json, byte for byte as bundles have it."""
    return HttpResponse(register.content(), content_type="application/json")


@require_safe
def schema(request: HttpRequest, path: str) -> HttpResponse:
    found = register.schemas().get(path)
    if found is None:
        raise Http404("no such schema")
    return HttpResponse(found, content_type="application/schema+json")
