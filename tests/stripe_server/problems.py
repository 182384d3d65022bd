"""What Stripe answers badly with: one shape, `{"error": {...}}`, and a status."""

from dataclasses import dataclass, field
from typing import Any


@dataclass
class Problem(Exception):
    """`kind` is Stripe's error `type`; `more` are members beside it, such as payment_intent."""

    status: int
    kind: str
    message: str
    code: str = ""
    param: str = ""
    more: dict[str, Any] = field(default_factory=dict)

    def body(self) -> dict[str, Any]:
        error: dict[str, Any] = {"type": self.kind, "message": self.message} | self.more
        if self.code:
            error["code"] = self.code
        if self.param:
            error["param"] = self.param
        return {"error": error}


def invalid(message: str, *, code: str = "", param: str = "", status: int = 400) -> Problem:
    return Problem(status, "invalid_request_error", message, code, param)


def missing(what: str, id: str, param: str = "id") -> Problem:
    message = f"No such {what}: '{id}'"
    return invalid(message, code="resource_missing", param=param, status=404)
