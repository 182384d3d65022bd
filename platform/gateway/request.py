"""A request body: what the gateway reads of it, and what the engine gets instead.

The body is cut into its top-level fields, each left as the bytes that came. Replacing a field
and joining them again copies those bytes: nothing is parsed twice or serialised anew, and a
field that stood there twice (or under an escaped name) reaches the engine once, as we read it.
"""

from dataclasses import dataclass
from typing import TypeVar

import msgspec

from gateway import engine_fields
from gateway.errors import ApiError, bad_request, invalid_json
from gateway.operations import Operation, Shape

_FIELDS = msgspec.json.Decoder(dict[str, msgspec.Raw])
_TEXT = msgspec.json.Decoder(str)
_FLAG = msgspec.json.Decoder(bool | None)
_COUNT = msgspec.json.Decoder(int | None)
_OPTIONS = msgspec.json.Decoder(dict[str, msgspec.Raw] | None)
_ENCODER = msgspec.json.Encoder()

_TRUE = msgspec.Raw(b"true")
_FALSE = msgspec.Raw(b"false")
_NOTHING = (b"null", b'""')
_USAGE_OPTIONS = msgspec.Raw(b'{"include_usage":true,"continuous_usage_stats":true}')

T = TypeVar("T")


@dataclass(slots=True)
class Call:
    """A body that was read. `model` is as the client wrote it, and goes back to it so."""

    operation: Operation
    model: str
    stream: bool
    wants_usage: bool  # the client itself asked for the usage event of a stream
    wants_running_usage: bool  # … and for usage in every event (an extension of vLLM's)
    choices: int  # `n`
    several: bool  # more than one sequence may be generated: usage must be kept apart
    size: int  # bytes of the body, without media: what a prompt is judged by if nobody counts
    fields: dict[str, msgspec.Raw]

    def wire(self, model: str, cache_salt: str) -> bytes:
        """The engine's body: its own name for the model, our salt, usage in every event.

        Running usage makes a cut stream exact however many tokens an event carries; the
        engine sums it up anyway, and here it costs one search in each event that is relayed.
        """
        fields = self.fields
        fields["model"] = _raw(model)
        operation = self.operation
        if operation.salted:
            fields["cache_salt"] = _raw(cache_salt)
        if operation.stored:
            fields["store"] = _FALSE
        if self.stream and operation.shape is Shape.CHAT:
            given = fields.get("stream_options")
            fields["stream_options"] = _USAGE_OPTIONS if given is None else _with_usage(given)
        return _ENCODER.encode(fields)


def read(body: bytes, operation: Operation, default_model: str = "") -> Call:
    """Raises ApiError 400 for what no engine should see.

    `default_model` is meant where the body names none.
    """
    size = len(body)
    try:
        fields = _fields(body)
        engine_fields.refuse_control(fields)
        sources = operation.shape is Shape.MESSAGES
        for name in operation.prompts:
            if name in fields:
                size -= engine_fields.refuse_media(fields[name], name, sources=sources)
        if "chat_template_kwargs" in fields:
            engine_fields.refuse_template(fields["chat_template_kwargs"])
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise invalid_json(str(error)) from None
    except RecursionError:
        raise invalid_json("it is nested too deeply") from None
    if operation.stored:
        engine_fields.refuse_stored(fields)
    if default_model and bytes(fields.get("model", b"null")) in _NOTHING:
        model = default_model
    else:
        model = _value(fields, "model", _TEXT, "a string", required=True)
    stream = bool("stream" in fields and _value(fields, "stream", _FLAG, "true or false"))
    if stream and not operation.streams:
        raise bad_request("unsupported_parameter", f"{operation.path} cannot stream.", "stream")
    choices = (_value(fields, "n", _COUNT, "a whole number") if "n" in fields else 1) or 1
    options: dict[str, msgspec.Raw] = {}
    if stream and "stream_options" in fields:
        options = _value(fields, "stream_options", _OPTIONS, "an object") or {}
    prompt = fields.get("prompt")
    return Call(
        operation=operation,
        model=model,
        stream=stream,
        wants_usage=_asked(options, "include_usage"),
        wants_running_usage=_asked(options, "continuous_usage_stats"),
        choices=choices,
        several=choices != 1 or (prompt is not None and bytes(prompt).startswith(b"[")),
        size=size,
        fields=fields,
    )


def _fields(body: bytes) -> dict[str, msgspec.Raw]:
    if not body:
        raise invalid_json("it is empty")
    if not body.isascii():
        body.decode()  # the decoder skips over strings that it does not read
    try:
        return _FIELDS.decode(body)
    except msgspec.ValidationError as error:
        raise invalid_json(str(error)) from None


def _value(
    fields: dict[str, msgspec.Raw],
    name: str,
    decoder: msgspec.json.Decoder[T],
    expected: str,
    *,
    required: bool = False,
) -> T:
    raw = fields.get(name)
    if raw is None:
        assert required
        raise bad_request("missing_required_parameter", f"You must provide `{name}`.", name)
    try:
        return decoder.decode(raw)
    except msgspec.DecodeError:
        raise _wrong_type(name, expected) from None


def _wrong_type(name: str, expected: str) -> ApiError:
    return bad_request("invalid_type", f"`{name}` must be {expected}.", name)


def _asked(options: dict[str, msgspec.Raw], name: str) -> bool:
    return name in options and bytes(options[name]) == b"true"


def _with_usage(given: msgspec.Raw) -> msgspec.Raw:
    options = _OPTIONS.decode(given) or {}
    options["include_usage"] = options["continuous_usage_stats"] = _TRUE
    return msgspec.Raw(_ENCODER.encode(options))


def _raw(text: str) -> msgspec.Raw:
    return msgspec.Raw(_ENCODER.encode(text))
