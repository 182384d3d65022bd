"""What can go wrong, in a person's words; the API and the console say it in their own shapes."""

from compliance import audit


class TenancyError(Exception):
    """`code` is for programs, the message for people, `field` names the input that is to blame."""

    code = "error"

    def __init__(self, message: str, *, code: str = "", field: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.code = code or self.code
        self.field = field


class NotFound(TenancyError):
    """There is no such thing, or it is somebody else's: the two look alike."""

    code = "not_found"

    def __init__(self, what: str = "object", *, code: str = "", field: str = "") -> None:
        super().__init__(f"no such {what}", code=code, field=field)


class Forbidden(TenancyError):
    """One may see the thing but not do this to it. `actor` and organization: for the log."""

    code = "forbidden"

    def __init__(
        self,
        message: str,
        *,
        code: str = "",
        field: str = "",
        actor: audit.Actor | None = None,
        organization_id: str = "",
    ) -> None:
        super().__init__(message, code=code, field=field)
        self.actor = actor
        self.organization_id = organization_id


class Conflict(TenancyError):
    """It does not go together with what is there already."""

    code = "conflict"


class Gone(TenancyError):
    """It was there, for a time that is over."""

    code = "gone"


class Invalid(TenancyError):
    """The input in `field` cannot be accepted."""

    code = "invalid"


class TooMany(TenancyError):
    """It was asked for too often: later it may be had."""

    code = "too_many"
