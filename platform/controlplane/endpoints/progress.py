"""How far a replica's weights are fetched: what deadlines and people go by."""

from datetime import datetime

from controlplane.endpoints import notify
from controlplane.endpoints.models import Replica

_MOST = 2**62


def note(row: Replica, done: int, total: int, now: datetime) -> None:
    """Keep what its node says now. More bytes are progress; fewer are another beginning."""
    done, total = min(max(done, 0), _MOST), min(max(total, 0), _MOST)
    if (done, total) == (row.bytes_done, row.bytes_total):
        return
    facts = {"bytes_done": done, "bytes_total": total}
    moved = {"progress_at": now} if done > row.bytes_done else {}
    Replica.objects.filter(id=row.id).update(**facts, **moved)
    notify.changed(row.endpoint_id)
