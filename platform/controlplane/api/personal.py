"""Where this room holds data of people and of organizations: replies that are repeated."""

from django.db.models import Q

from compliance.privacy import stores
from compliance.privacy.stores import Rows
from compliance.subjects import ORGANIZATION
from controlplane.api.models import StoredReply
from controlplane.tenancy.models import ApiKey


def register() -> None:
    stores.register(
        Rows(name="api.replies/person", model=StoredReply, of="principal", order=20, moves=True)
    )
    stores.register(
        Rows(
            name="api.replies/organization",
            model=StoredReply,
            of=_of_keys,
            kind=ORGANIZATION,
            order=20,
            moves=True,
        )
    )


def _of_keys(id: str) -> Q:
    mine = ApiKey.objects.filter(project__organization_id=id)
    return Q(principal__in=mine.values("id"))
