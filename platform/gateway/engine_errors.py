"""An engine's refusal, said again in OpenAI's words, without what only the operator may know."""

import msgspec

from gateway import errors
from gateway.errors import ApiError
from gateway.request import Call


class _Error(msgspec.Struct):
    message: str = ""
    param: str | None = None


class _Reply(msgspec.Struct):
    error: _Error | None = None
    message: str = ""  # older engines put it at the top


_DECODER = msgspec.json.Decoder(_Reply, strict=False)
_TOO_LONG = ("maximum context length", "maximum model length", "longer than the maximum")
_MESSAGE_LIMIT = 2000


def translate(status: int, body: bytes, call: Call, engine_model: str) -> ApiError:
    """The ApiError for an engine's reply that is not 200."""
    found = _read(body)
    if status in (404, 405, 501):
        if found is not None and "does not exist" in found.message:
            return errors.model_not_found(call.model)
        return errors.operation_not_offered(call.model, call.operation.path)
    if status in (429, 503):
        return errors.engine_overloaded(call.model)
    if status >= 500 or status in (401, 403) or status < 400:
        # Its words may quote its host's paths; they are in its log.
        message = "The engine failed to answer this request."
        return ApiError(500, "engine_error", message, type="server_error")
    message = found.message if found else ""
    message = message.replace(engine_model, call.model)[:_MESSAGE_LIMIT]
    if any(words in message for words in _TOO_LONG):
        return errors.bad_request("context_length_exceeded", message, call.operation.prompts[0])
    param = found.param if found else None
    return errors.bad_request(None, message or "The engine refused this request.", param)


def _read(body: bytes) -> _Error | None:
    try:
        reply = _DECODER.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    return reply.error or (_Error(reply.message) if reply.message else None)
