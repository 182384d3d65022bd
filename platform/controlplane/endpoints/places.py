"""The room's places of personal data, as compliance knows them."""

from datetime import datetime

from compliance import audit, places
from controlplane.endpoints import uploads
from controlplane.endpoints.models import Upload


def register() -> None:
    places.register(
        places.Place(
            name="model_uploads",
            tables=("endpoints_upload", "endpoints_uploadfile"),
            holds="weights that a project brought itself, in STOA_UPLOADS_DIR",
            kept="until it is deleted, or its project is; unfinished, STOA_UPLOADS_UNFINISHED_S",
            protected="files that the web process alone may read; a node is sent its project's",
            erase=erase,
        )
    )


def erase(project_id: str, now: datetime) -> int:
    """All uploads of a project."""
    found = list(
        Upload.objects.select_related("project__organization").filter(project_id=project_id)
    )
    for upload in found:
        uploads.delete_upload(actor=audit.SYSTEM, upload=upload, now=now)
    return len(found)
