"""What a node did by itself, for the operator."""

from django.http.response import HttpResponseBase
from django.views.decorators.http import require_safe

from compliance import ids
from controlplane.fleet import node_events
from controlplane.fleet.models import Node
from controlplane.tenancy import access
from controlplane.tenancy.errors import NotFound
from frontend.visits import Request, Visit, page, show

NEWEST = 200


@require_safe
@page
def index(request: Request, visit: Visit, id: str) -> HttpResponseBase:
    access.operator(visit.principal)
    found = Node.objects.select_related("pool__region").filter(pk=id)
    node = found.first() if ids.valid(id, "node") else None
    if node is None:
        raise NotFound("node")
    rows = [
        {"event": event, "measured": node_events.words(event.detail)}
        for event in node.events.all()[:NEWEST]
    ]
    context = {"node": node, "rows": rows, "newest": NEWEST}
    return show(request, visit, "node_events.html", context)
