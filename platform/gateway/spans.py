"""Spans in OTLP's JSON, by OpenTelemetry's conventions for GenAI and HTTP. No content.

A request has two: the server's, from its arrival to its end, and below it the client's, of asking
the engine. Run, agent, `user` and `metadata` are personal data and not among the attributes.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from gateway.trace import Trace
from gateway.usage import Usage

_SERVER, _CLIENT = 2, 3
_FAILED = 2  # a status
_PROVIDER = "stoa"
GEN_AI_NAMES = {
    "chat.completions": "chat",
    "completions": "text_completion",
    "responses": "chat",
    "messages": "chat",
}

Value = str | int | float | bool


class Finished(msgspec.Struct, gc=False):
    """What is kept of a request until it is told. Moments in Unix nanoseconds, 0 for none."""

    trace: Trace
    request_id: str
    path: str
    operation: str
    project_id: str
    endpoint_id: str
    replica_id: str
    model: str  # as the client named it
    weights: str  # what it stands for
    stream: bool
    choices: int
    status: int
    error: str
    used: Usage
    arrived: int
    asked: int
    first: int
    last: int
    ended: int
    queue_s: float
    wake_s: float


def document(resource: Mapping[str, str], requests: Iterable[Finished]) -> bytes:
    """An ExportTraceServiceRequest."""
    spans = [span for request in requests for span in _spans(request)]
    scope = {"scope": {"name": "stoa.gateway"}, "spans": spans}
    found = {"resource": {"attributes": _attributes(resource)}, "scopeSpans": [scope]}
    return msgspec.json.encode({"resourceSpans": [found]})


def _spans(request: Finished) -> Iterable[dict[str, Any]]:
    trace = request.trace
    attributes: dict[str, Value] = {
        "http.request.method": "POST",
        "http.route": request.path,
        "http.response.status_code": request.status,
        "stoa.request.id": request.request_id,
        "stoa.project.id": request.project_id,
        "stoa.endpoint.id": request.endpoint_id,
        "stoa.queue.duration": request.queue_s,
        "stoa.wake.duration": request.wake_s,
    }
    if request.error:
        attributes["error.type"] = request.error
    server = _span(
        trace, trace.span, trace.parent, f"POST {request.path}", _SERVER,
        request.arrived, request.ended, attributes,
    )  # fmt: skip
    if request.status >= 500:
        server["status"] = {"code": _FAILED}
    yield server
    if request.asked:
        yield _asking(request)


def _asking(request: Finished) -> dict[str, Any]:
    trace, used = request.trace, request.used
    operation = GEN_AI_NAMES.get(request.operation, request.operation)
    attributes: dict[str, Value] = {
        "gen_ai.operation.name": operation,
        "gen_ai.provider.name": _PROVIDER,
        "gen_ai.request.model": request.model,
        "gen_ai.response.model": request.weights,
        "gen_ai.request.stream": request.stream,
        "gen_ai.usage.input_tokens": used.input,
        "gen_ai.usage.cache_read.input_tokens": used.cached,
        "gen_ai.usage.output_tokens": used.output,
        "stoa.replica.id": request.replica_id,
    }
    if request.choices != 1:
        attributes["gen_ai.request.choice.count"] = request.choices
    if request.first:
        waited = (request.first - request.asked) / 1e9
        attributes["gen_ai.response.time_to_first_chunk"] = waited
    if request.error:
        attributes["error.type"] = request.error
    span = _span(
        trace, trace.engine_span, trace.span, f"{operation} {request.model}", _CLIENT,
        request.asked, request.last or request.ended, attributes,
    )  # fmt: skip
    if request.error:
        span["status"] = {"code": _FAILED}
    return span


def _span(
    trace: Trace,
    span_id: str,
    parent: str,
    name: str,
    kind: int,
    start: int,
    end: int,
    attributes: Mapping[str, Value],
) -> dict[str, Any]:
    return {
        "traceId": trace.id,
        "spanId": span_id,
        **({"parentSpanId": parent} if parent else {}),
        "flags": int(trace.sampled),
        "name": name,
        "kind": kind,
        "startTimeUnixNano": str(start),
        "endTimeUnixNano": str(max(start, end)),
        "attributes": _attributes(attributes),
    }


def _attributes(values: Mapping[str, Value]) -> list[dict[str, Any]]:
    return [{"key": key, "value": _value(value)} for key, value in values.items()]


def _value(value: Value) -> dict[str, Any]:
    """OTLP's JSON writes whole numbers as text: they have 64 bits."""
    if isinstance(value, bool):
        return {"boolValue": value}
    if isinstance(value, int):
        return {"intValue": str(value)}
    return {"doubleValue": value} if isinstance(value, float) else {"stringValue": value}
