"""The room's places of personal data, as compliance knows them."""

from datetime import datetime

from compliance import audit, places
from controlplane.endpoints import uploads
from controlplane.endpoints.models import ModelFacts, Quote, Upload


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
    places.register(
        places.Place(
            name="model_facts",
            tables=("endpoints_modelfacts",),
            holds="names and configurations of models, which may be a project's own",
            kept="until the upload is deleted, or the project is",
            protected="shown to nobody; predictions for the project alone go by them",
            erase=forget,
        )
    )
    places.register(
        places.Place(
            name="quotes",
            tables=("endpoints_quote",),
            holds="names of models and what somebody means to do with them",
            kept="30 days, or as long as an endpoint that was made with it; the project at most",
            protected="shown to the project's members alone",
            erase=drop_quotes,
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


def forget(project_id: str, now: datetime) -> int:
    """What is known of the models of a project."""
    return ModelFacts.objects.filter(project_id=project_id).delete()[0]


def drop_quotes(project_id: str, now: datetime) -> int:
    """All that was quoted to a project."""
    return Quote.objects.filter(project_id=project_id).delete()[0]
