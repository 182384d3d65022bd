"""OpenTelemetry's own settings, by its own names; the endpoint turns tracing on."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import unquote, urlsplit

from gateway.trace import Sampler

_SAMPLERS = {
    "always_on": (False, 1.0),
    "always_off": (False, 0.0),
    "traceidratio": (False, None),
    "parentbased_always_on": (True, 1.0),
    "parentbased_always_off": (True, 0.0),
    "parentbased_traceidratio": (True, None),
}


@dataclass(frozen=True, kw_only=True)
class TraceSettings:
    url: str
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)  # may hold a secret
    resource: Mapping[str, str] = field(default_factory=dict)
    certificate: str = ""  # PEM: who signs the collector's
    timeout_s: float = 10.0
    sampler: Sampler


def of(environ: Mapping[str, str]) -> TraceSettings | None:
    """None: no spans. Raises ValueError with the variable's name."""
    prefix = "OTEL_EXPORTER_OTLP_"

    def read(name: str) -> str:
        return environ.get(f"{prefix}TRACES_{name}") or environ.get(f"{prefix}{name}", "")

    base = environ.get(f"{prefix}ENDPOINT", "")
    url = environ.get(f"{prefix}TRACES_ENDPOINT") or (base and f"{base.rstrip('/')}/v1/traces")
    off = environ.get("OTEL_SDK_DISABLED", "").lower() == "true"
    if not url or off or environ.get("OTEL_TRACES_EXPORTER") == "none":
        return None
    if urlsplit(url).scheme not in ("http", "https"):
        raise ValueError(f"{prefix}ENDPOINT={url!r}: expected http:// or https://")
    if read("PROTOCOL") not in ("", "http/json", "http/protobuf"):  # collectors take both at once
        raise ValueError(f"{prefix}PROTOCOL={read('PROTOCOL')!r}: expected http/json")
    resource = _pairs(environ.get("OTEL_RESOURCE_ATTRIBUTES", ""))
    name = environ.get("OTEL_SERVICE_NAME") or resource.get("service.name") or "stoa-gateway"
    return TraceSettings(
        url=url,
        headers=_pairs(read("HEADERS")),
        resource={**resource, "service.name": name},
        certificate=read("CERTIFICATE"),
        timeout_s=_number(f"{prefix}TIMEOUT", read("TIMEOUT"), 10_000) / 1000,
        sampler=_sampler(environ),
    )


def _sampler(environ: Mapping[str, str]) -> Sampler:
    name = environ.get("OTEL_TRACES_SAMPLER") or "parentbased_always_on"
    if name not in _SAMPLERS:
        raise ValueError(f"OTEL_TRACES_SAMPLER={name!r}: expected one of {', '.join(_SAMPLERS)}")
    follows, share = _SAMPLERS[name]
    if share is None:
        variable = "OTEL_TRACES_SAMPLER_ARG"
        share = _number(variable, environ.get(variable, ""), 1.0)
        if share > 1:
            raise ValueError(f"{variable}={share:g}: expected 0 to 1")
    return Sampler(share, follows)


def _pairs(text: str) -> dict[str, str]:
    parts = (part.partition("=") for part in text.split(",") if "=" in part)
    return {unquote(name.strip()): unquote(value.strip()) for name, _, value in parts}


def _number(name: str, text: str, default: float) -> float:
    try:
        number = float(text) if text else default
    except ValueError:
        number = -1.0
    if not 0 <= number < float("inf"):
        raise ValueError(f"{name}={text!r}: expected a number")
    return number
