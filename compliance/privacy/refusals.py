"""What the verbs on people's data refuse, in a person's words."""


class Refusal(Exception):
    """It does not go together with what is there. `code` is for programs, the message for people;
    `field` names the input that is to blame, where it is one."""

    def __init__(self, code: str, message: str, field: str = "") -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.field = field


class Wrong(Refusal):
    """The input in `field` cannot be accepted."""
