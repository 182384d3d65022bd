"""What a request can be refused with, in the shape that OpenAI's or Anthropic's clients parse.

`{"error": {"message", "type", "param", "code"}}`; Anthropic's knows neither param nor code, and
has types of its own. The rule of the statuses: 4xx is the caller's
to mend, 503 is ours and says when to try again.
"""

import math
from collections.abc import Mapping

import msgspec

from gateway.operations import Shape

_ENCODER = msgspec.json.Encoder()
_ANTHROPIC_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
}


class ApiError(Exception):
    """One refusal. `retry_after_s` becomes the header Retry-After."""

    def __init__(
        self,
        status: int,
        code: str | None,
        message: str,
        *,
        type: str = "invalid_request_error",
        param: str | None = None,
        retry_after_s: int | None = None,
        lines: bytes = b"",
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.type = type
        self.param = param
        self.retry_after_s = retry_after_s
        self.lines = lines  # further header lines, with their ends

    def body(self, request_id: str, *, anthropic: bool = False) -> bytes:
        """The JSON of a reply; the request id is there for whoever only keeps the body."""
        content = self._anthropic() if anthropic else {"error": self._content()}
        return _ENCODER.encode({**content, "request_id": request_id})

    def event(self, shape: Shape = Shape.CHAT) -> bytes:
        """The same for a stream whose status has left already: one server-sent event."""
        if shape is Shape.MESSAGES:
            return b"event: error\ndata: " + _ENCODER.encode(self._anthropic()) + b"\n\n"
        content: dict[str, object] = {"error": self._content()}
        if shape is Shape.RESPONSES:
            content = {**self._content(), **content, "type": "error"}
            return b"event: error\ndata: " + _ENCODER.encode(content) + b"\n\n"
        return b"data: " + _ENCODER.encode(content) + b"\n\n"

    def _anthropic(self) -> dict[str, object]:
        other = "api_error" if self.status >= 500 else "invalid_request_error"
        kind = _ANTHROPIC_TYPES.get(self.status, other)
        return {"type": "error", "error": {"type": kind, "message": self.message}}

    def _content(self) -> Mapping[str, str | None]:
        return {
            "message": self.message,
            "type": self.type,
            "param": self.param,
            "code": self.code,
        }


def bad_request(code: str | None, message: str, param: str | None = None) -> ApiError:
    return ApiError(400, code, message, param=param)


def malformed_http(what: str) -> ApiError:
    return bad_request("malformed_request", f"The request is not valid HTTP/1.1: {what}.")


def too_far_ahead(limit: int) -> ApiError:
    return malformed_http(f"more than {limit} of them come before an answer")


def headers_too_large(limit: int) -> ApiError:
    return ApiError(431, "headers_too_large", f"Request headers are limited to {limit} bytes.")


def body_too_large(limit: int) -> ApiError:
    message = f"The request body is larger than the {limit} bytes that this server accepts."
    return ApiError(413, "request_too_large", message)


def too_slow() -> ApiError:
    return ApiError(408, "request_timeout", "The request did not arrive in time.")


def invalid_json(why: str) -> ApiError:
    return bad_request("invalid_json", f"The body is not a JSON object: {why}.")


def key_missing() -> ApiError:
    message = (
        "No API key was sent. Send it as `Authorization: Bearer sk-stoa-…`"
        " (for /v1/messages also as `x-api-key`)."
    )
    return ApiError(401, "invalid_api_key", message)


def key_unknown() -> ApiError:
    message = "The API key is not valid: it is unknown, malformed or revoked."
    return ApiError(401, "invalid_api_key", message)


def key_expired() -> ApiError:
    return ApiError(401, "invalid_api_key", "The API key has expired.")


def scope_missing(scope: str) -> ApiError:
    message = f"The API key does not have the scope `{scope}`."
    return ApiError(403, "insufficient_permissions", message, type="permission_error")


def wrong_network() -> ApiError:
    message = "This API key may not be used from this network."
    return ApiError(403, "network_not_allowed", message, type="permission_error")


def unknown_route(method: str, path: str) -> ApiError:
    return ApiError(404, "unknown_url", f"Unknown request URL: {method} {path}.")


def wrong_method(method: str, path: str) -> ApiError:
    return ApiError(405, "method_not_allowed", f"{path} does not accept {method}.")


def model_not_found(name: str) -> ApiError:
    message = f"The model `{name}` does not exist or this API key has no access to it."
    return ApiError(404, "model_not_found", message, param="model")


def not_stored() -> ApiError:
    message = (
        "Responses are not stored here, so that there is none to read, cancel or delete."
        " Keep the reply that you got, and send what it goes on from in `input`."
    )
    return ApiError(404, "response_not_stored", message)


def operation_not_offered(name: str, path: str) -> ApiError:
    message = f"The model `{name}` does not offer {path}."
    return ApiError(404, "unsupported_operation", message, param="model")


def _unavailable(code: str, message: str, retry_after_s: int | None) -> ApiError:
    return ApiError(503, code, message, type="server_error", retry_after_s=retry_after_s)


def adapter_loading(name: str) -> ApiError:
    message = f"The adapter of `{name}` is being loaded; no replica has it yet."
    return _unavailable("adapter_loading", message, 2)


def adapter_failed(name: str) -> ApiError:
    message = (
        f"The adapter of `{name}` could not be loaded: its endpoint's page in the console says why."
    )
    return ApiError(404, "adapter_not_loaded", message, param="model")


def endpoint_stopped(name: str) -> ApiError:
    return _unavailable("endpoint_stopped", f"The endpoint `{name}` has been stopped.", None)


def endpoint_starting(name: str, retry_after_s: int) -> ApiError:
    message = f"The endpoint `{name}` has no ready replica yet; it is being started."
    return _unavailable("endpoint_starting", message, retry_after_s)


def engine_unavailable(name: str, retry_after_s: int = 2) -> ApiError:
    message = f"No replica of `{name}` could be reached."
    return _unavailable("engine_unavailable", message, retry_after_s)


def suspect(left_s: float) -> ApiError:
    message = (
        "Two engines went away while they had this request to answer, so it is refused"
        f" for another {math.ceil(left_s)} s. Please change it."
    )
    return bad_request("request_suspect", message, None)


def engine_overloaded(name: str, retry_after_s: int = 1) -> ApiError:
    message = f"The endpoint `{name}` is at its capacity."
    return _unavailable("engine_overloaded", message, retry_after_s)


def no_spare_capacity(name: str) -> ApiError:
    message = f"The endpoint `{name}` has nothing to spare for a batch now."
    return _unavailable("no_spare_capacity", message, 1)


def preempted(name: str) -> ApiError:
    message = f"Others wait for the endpoint `{name}`, so this line of a batch was cut off."
    return _unavailable("preempted", message, 1)


def house_unreachable(retry_after_s: int) -> ApiError:
    message = "Files and batches cannot be reached at the moment."
    return _unavailable("batches_unavailable", message, retry_after_s)


def no_house() -> ApiError:
    message = "This gateway is not set up to take files and batches."
    return ApiError(501, "batches_not_configured", message, type="server_error")


def engine_gone() -> ApiError:
    message = "The engine went away before the answer was complete."
    return ApiError(502, "engine_gone", message, type="server_error")


def engine_silent() -> ApiError:
    message = "The engine did not answer in time."
    return ApiError(504, "engine_timeout", message, type="server_error")


def spool_full() -> ApiError:
    message = "This gateway cannot record usage at the moment, so it serves nothing new."
    return _unavailable("metering_unavailable", message, 5)


def gate_full() -> ApiError:
    message = "This gateway has no room for another counter."
    return _unavailable("counters_full", message, 5)


def budget_unavailable(subject: str) -> ApiError:
    message = f"The {subject} budget's lease is used up, and its rest cannot be asked for now."
    return _unavailable("budget_unavailable", message, 2)


_NO_RETRY = b"x-should-retry: false\r\n"  # OpenAI's SDKs retry a 429 otherwise


def rate_limited(whose: str, what: str, limit: int, wait_ns: int, lines: bytes = b"") -> ApiError:
    """Too fast: 429 with the seconds until the same request would pass. `lines`, of each 429:
    the limits' header lines."""
    words = {"requests": "requests a minute", "concurrency": "requests at once"}
    unit = words.get(what, what.replace("_", " ") + " a minute")
    millis = -(-wait_ns // 1_000_000)
    return ApiError(
        429,
        "rate_limit_exceeded",
        f"The {whose}'s limit of {limit} {unit} is reached; try again in {millis / 1000:g} s.",
        type="requests" if what in words else "tokens",
        retry_after_s=max(1, -(-millis // 1000)),
        lines=b"retry-after-ms: %d\r\n%b" % (millis, lines),
    )


def budget_exceeded(
    subject: str, unit: str, amount: int, window: str, need: int, rest: int, lines: bytes = b""
) -> ApiError:
    """The budget is spent: 429, and trying again does not help before its window ends."""
    window = window.partition("/")[0]
    until = "in all" if window == "total" else f"for {window}"
    message = (
        f"The {subject} budget of {_amount(amount, unit)} {until} does not cover this request:"
        f" it may take {_amount(need, unit)}, and {_amount(max(0, rest), unit)} are left."
    )
    lines = _NO_RETRY + lines
    return ApiError(429, "budget_exceeded", message, type="insufficient_quota", lines=lines)


def _amount(amount: int, unit: str) -> str:
    if unit != "nano_eur":
        return f"{amount} {unit}"
    euro, nano = divmod(amount, 10**9)
    return f"{euro}.{nano:09d}".rstrip("0").rstrip(".") + " EUR"


def run_stopped() -> ApiError:
    message = "The run of this request, or one above it, has been stopped."
    return ApiError(403, "run_stopped", message, type="permission_error", lines=_NO_RETRY)


def run_paused(why: str, wait_s: float, lines: bytes = b"") -> ApiError:
    wait = max(1, math.ceil(wait_s))
    message = f"The run is paused for {wait} s: {why}."
    lines = b"retry-after-ms: %d\r\n%b" % (wait * 1000, lines)
    return ApiError(429, "run_paused", message, type="requests", retry_after_s=wait, lines=lines)


def run_limit(why: str) -> ApiError:
    message = f"The run {why}, and its project does not let it."
    return ApiError(403, "run_limit", message, type="permission_error", lines=_NO_RETRY)


def directory_stale() -> ApiError:
    message = "This gateway has been without its directory for too long to serve."
    return _unavailable("directory_stale", message, 5)


def internal() -> ApiError:
    return ApiError(500, "internal_error", "The gateway failed.", type="server_error")


def draining() -> ApiError:
    return _unavailable("gateway_draining", "This gateway is shutting down; try again.", 1)
