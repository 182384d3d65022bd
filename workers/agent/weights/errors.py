"""Why a model cannot be had; reasons are those of endpoints.states.Reason."""

MODEL_NOT_FOUND = "model_not_found"
FETCH_FAILED = "fetch_failed"
ACCESS_DENIED = "access_denied"


class ModelError(Exception):
    """A model that cannot be had; the message is for a person and holds no secret."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class Missing(ModelError):
    """The source answered, and has no such thing for anybody who asks like this."""

    def __init__(self, message: str) -> None:
        super().__init__(MODEL_NOT_FOUND, message)


class Denied(ModelError):
    """The source has it and refuses it to these credentials."""

    def __init__(self, message: str) -> None:
        super().__init__(ACCESS_DENIED, message)


class Unreachable(ModelError):
    """The source did not answer, or not as one of its kind does."""

    def __init__(self, message: str) -> None:
        super().__init__(FETCH_FAILED, message)


class Cancelled(ModelError):
    def __init__(self) -> None:
        super().__init__(FETCH_FAILED, "the fetch was cancelled")
