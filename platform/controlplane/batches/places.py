"""The room's places of personal data, as compliance knows them."""

from datetime import datetime

from compliance import audit, places
from controlplane.batches import files
from controlplane.batches.models import File


def register() -> None:
    places.register(
        places.Place(
            name="batch_files",
            tables=("batches_file", "batches_filechunk", "batches_batch", "batches_line"),
            holds="prompts and answers that a project asked to have kept, in files of batches",
            kept="STOA_FILES_KEPT_S, or less where the project said so, or until it is deleted",
            protected="AES-256-GCM, a key for each file, sealed under its organization's data key",
            erase=erase,
        )
    )


def erase(project_id: str, now: datetime) -> int:
    """All files of a project; batches under way end with what they have."""
    found = list(File.objects.select_related("project__organization").filter(project_id=project_id))
    for file in found:
        files.delete(actor=audit.SYSTEM, file=file, now=now)
    return len(found)
