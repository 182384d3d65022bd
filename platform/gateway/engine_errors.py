"""An engine's refusal, said again in OpenAI's words, without what only the operator may know."""

import re

import msgspec

from gateway import errors, guard
from gateway.errors import ApiError
from gateway.request import Call


class _Error(msgspec.Struct):
    message: str = ""
    param: str | None = None
    code: object = None


class _Reply(msgspec.Struct):
    error: _Error | None = None
    message: str = ""  # older engines put it at the top


_DECODER = msgspec.json.Decoder(_Reply, strict=False)
# vLLM says in several ways that a prompt does not fit: the window, and what the prompt has.
_TOO_LONG = (
    "maximum context length", "maximum model length", "longer than the maximum", "max_model_len",
)  # fmt: skip
_WINDOW = re.compile(
    r"maximum (?:context|model) length (?:is |of |\()(\d+)|max_model_len ?=? ?\(?(\d+)"
)
_PROMPT = re.compile(
    r"contains (at least )?(\d+) input tokens|[Pp]rompt \(?length (\d+)|Input length \((\d+)\)"
    r"|\((\d+) in the (?:messages|prompt)"
)
_MESSAGE_LIMIT = 2000
_DEAD = b"EngineCore encountered an issue"  # vLLM's server, of the process that computes for it


def translate(
    status: int, body: bytes, call: Call, engine_model: str, asked: int | None = None
) -> ApiError:
    """The ApiError for an engine's reply that is not 200. `asked`: tokens of an answer at most."""
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
        return _too_long(message, call, asked)
    param = found.param if found else None
    return errors.bad_request(None, message or "The engine refused this request.", param)


def dead(body: bytes) -> bool:
    """Whether an engine says with this error that it is about to end itself."""
    return _DEAD in body


def midway(body: bytes, call: Call, engine_model: str) -> ApiError:
    """The same for what an engine says in the midst of a stream, whose status has left."""
    found = _read(body)
    code = found.code if found is not None else None
    status = code if isinstance(code, int) and 400 <= code < 500 else 500
    return translate(status, body, call, engine_model)


def _too_long(message: str, call: Call, asked: int | None) -> ApiError:
    """The numbers out of the engine's words, in OpenAI's; its own words where there are none."""
    window, prompt = _WINDOW.search(message), _PROMPT.search(message)
    if window is None:
        return errors.bad_request("context_length_exceeded", message, call.operation.prompts[0])
    limit = int(window[1] or window[2])
    if prompt is not None:
        tokens = next(found for found in prompt.groups()[1:] if found)
        return guard.too_long(call, limit, (prompt[1] or "") + tokens, asked)
    if asked is not None and asked > limit:
        return guard.too_long(call, limit, "", asked)
    return errors.bad_request("context_length_exceeded", message, call.operation.prompts[0])


def _read(body: bytes) -> _Error | None:
    try:
        reply = _DECODER.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    return reply.error or (_Error(reply.message) if reply.message else None)
