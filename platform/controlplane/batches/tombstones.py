"""What of this room no backup may bring back, and how it is ended again."""

from datetime import datetime

from compliance import audit, tombstones
from compliance.models import Tombstone
from controlplane.batches import files, services
from controlplane.batches.models import ENDED, Batch, File, Status


def register() -> None:
    for action in ("file.delete", "file.expire"):
        tombstones.register(action, _delete_file)
    tombstones.register("batch.cancel", _cancel_batch)


def _delete_file(stone: Tombstone, now: datetime) -> bool:
    file = File.objects.select_related("project__organization").filter(id=stone.target_id).first()
    if file is None:
        return False
    files.delete(actor=audit.SYSTEM, file=file, now=now)
    return True


def _cancel_batch(stone: Tombstone, now: datetime) -> bool:
    rows = Batch.objects.select_related("project__organization")
    batch = rows.filter(id=stone.target_id).first()
    if batch is None or batch.status in (*ENDED, Status.FINALIZING, Status.CANCELLING):
        return False
    services.cancel(actor=audit.SYSTEM, batch=batch, now=now)
    return True
