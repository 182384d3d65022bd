"""What of this room no backup may bring back, and how it is ended again."""

from collections.abc import Callable
from datetime import datetime

from compliance import audit, tombstones
from compliance.models import Tombstone
from controlplane.endpoints import services, uploads
from controlplane.endpoints.models import Endpoint, Upload


def register() -> None:
    tombstones.register("endpoint.stop", _verb(services.stop))
    tombstones.register("endpoint.unshare", _verb(services.unshare))
    tombstones.register("endpoint.delete", _verb(services.delete))
    for action in ("upload.delete", "upload.expire"):
        tombstones.register(action, _delete_upload)


def _verb(verb: Callable[..., object]) -> tombstones.Replay:
    """An endpoint that is there again would serve, and be charged for."""

    def end(stone: Tombstone, now: datetime) -> bool:
        endpoint = Endpoint.objects.filter(id=stone.target_id, deleted_at=None).first()
        if endpoint is None:
            return False
        verb(actor=audit.SYSTEM, endpoint=endpoint, now=now)
        return True

    return end


def _delete_upload(stone: Tombstone, now: datetime) -> bool:
    rows = Upload.objects.select_related("project__organization")
    upload = rows.filter(id=stone.target_id).first()
    if upload is None:
        return False
    uploads.delete_upload(actor=audit.SYSTEM, upload=upload, now=now)
    return True
