"""The room's places of personal data, as compliance knows them."""

from datetime import datetime

from compliance import audit, places
from controlplane.tenancy import project_secrets
from controlplane.tenancy.models import ProjectSecret


def register() -> None:
    places.register(
        places.Place(
            name="project_secrets",
            tables=("tenancy_projectsecret",),
            holds="what opens a project's sources of models: tokens, keys, logins",
            kept="until it is deleted, or its project is",
            protected="AES-256-GCM under the newest of STOA_SECRETS_KEYS, bound to its row",
            erase=erase,
        )
    )


def erase(project_id: str, now: datetime) -> int:
    """All secrets of a project."""
    found = ProjectSecret.objects.select_related("project__organization")
    gone = list(found.filter(project_id=project_id))
    for secret in gone:
        project_secrets.delete_secret(actor=audit.SYSTEM, secret=secret, now=now)
    return len(gone)
