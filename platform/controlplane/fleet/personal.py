"""Where this room holds data of people: words that operators typed about machines."""

from compliance.privacy import stores
from compliance.privacy.stores import ERASED, Rows
from controlplane.fleet.models import Decommission, Maintenance


def register() -> None:
    stores.register(
        Rows(
            name="fleet.maintenance",
            model=Maintenance,
            of="created_by",
            action=stores.PSEUDONYMISE,
            put={"message": "", "created_by": ERASED},
        )
    )
    stores.register(
        Rows(
            name="fleet.decommissions",
            model=Decommission,
            of="requested_by",
            action=stores.PSEUDONYMISE,
            put={"reason": ERASED, "requested_by": ERASED},
        )
    )
