"""What can go wrong here. The kinds are tenancy's, so that callers need one table for all rooms."""

from controlplane.endpoints.states import State
from controlplane.tenancy import errors


class Invalid(errors.Invalid):
    """The wish in `field` cannot be granted as it stands; nothing was changed."""

    code = "invalid_endpoint"


class NameTaken(errors.Conflict):
    """Another endpoint of the project has this name."""

    code = "name_taken"


class IllegalArc(Exception):
    """Somebody asked a replica for an arc that does not exist: a fault in the program."""

    code = "illegal_arc"

    def __init__(self, replica_id: str, old: State, to: State) -> None:
        super().__init__(f"{replica_id}: {old} → {to} is not an arc")
