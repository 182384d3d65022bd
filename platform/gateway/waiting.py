"""How long a request will wait: its client may want less than we allow. Pure."""

from collections.abc import Mapping

from gateway.directory import Endpoint
from gateway.limits import Limits

# OpenAI's SDKs say after how many seconds they give up: until then they get an answer.
_GIVE_UP = (b"x-stainless-read-timeout", b"x-stainless-timeout")


def patience(headers: Mapping[bytes, bytes], endpoint: Endpoint, limits: Limits) -> float:
    """Seconds; 0 for a client that does not wait at all (`x-stoa-wait: 0`)."""
    limit = limits.queue_s if endpoint.replicas else limits.hold_s
    if endpoint.queue_s is not None:
        limit = endpoint.queue_s
    asked = headers.get(b"x-stoa-wait", b"")
    if asked.isdigit() and len(asked) < 7:
        return min(limit, int(asked))
    for name in _GIVE_UP:
        given = headers.get(name, b"")
        if given.replace(b".", b"", 1).isdigit() and len(given) < 12:
            return min(limit, float(given) * 0.95)
    return limit
