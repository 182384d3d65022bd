"""What a node did by itself, for the operator."""

from django.http.response import HttpResponseBase
from django.views.decorators.http import require_safe

from compliance import ids
from controlplane.fleet import node_events
from controlplane.fleet.models import Node
from controlplane.tenancy import access
from controlplane.tenancy.errors import NotFound
from controlplane.tenancy.models import Organization
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
    events = list(node.events.all()[:NEWEST])
    ids_of = {id for one in events for id in (one.from_organization, one.to_organization)}
    names = dict(Organization.objects.filter(id__in=ids_of).values_list("id", "name"))
    rows = [
        {
            "event": one,
            "before": names.get(one.from_organization, one.from_organization),
            "after": names.get(one.to_organization, one.to_organization),
            "measured": node_events.words(one.detail),
        }
        for one in events
    ]
    context = {"node": node, "rows": rows, "newest": NEWEST}
    return show(request, visit, "node_events.html", context)
