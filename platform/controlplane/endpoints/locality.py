"""Which nodes hold a model's weights already, as far as the control plane has heard.

A replica of the same project's that served there lately has left them in the node's cache, and a
pull that is done has put them there. While an engine of it runs, or ran a moment ago, the node has
them in memory too, and reads them from no disk. A cache may have made room since: then the start
is slower, and nothing worse.
"""

from datetime import datetime, timedelta

from controlplane.endpoints.models import Endpoint, PullNode, Start
from controlplane.endpoints.states import LIVE
from controlplane.fleet.wire import PullState
from controlplane.placement.nodes import Weights

_CACHED = timedelta(days=7)  # without a start of it a cache has likely made room
_IN_MEMORY = timedelta(minutes=10)  # after its engine ended


def of(endpoint: Endpoint, now: datetime) -> dict[str, Weights]:
    """By node; nodes that are not named have none."""
    if not endpoint.model:
        return {}
    pulled = PullNode.objects.filter(
        pull__project=endpoint.project_id,
        pull__model=endpoint.model,
        pull__source=endpoint.source,
        pull__created_at__gt=now - _CACHED,
        state=PullState.READY,
        node__pool=endpoint.pool_id,
    )
    found = dict.fromkeys(pulled.values_list("node_id", flat=True), Weights.DISK)
    starts = Start.objects.filter(
        endpoint__project=endpoint.project_id,
        endpoint__model=endpoint.model,
        endpoint__source=endpoint.source,
        ready=True,
        ended_at__gt=now - _CACHED,
        replica__node__pool=endpoint.pool_id,
    )
    rows = starts.order_by().values_list(
        "replica__node_id", "replica__state", "replica__released_at"
    )
    for node_id, state, released_at in rows.distinct():
        warm = state in LIVE or (released_at is not None and released_at > now - _IN_MEMORY)
        found[node_id] = max(found.get(node_id, Weights.DISK), Weights(1 + warm))
    return found
