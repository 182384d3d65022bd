"""How long an endpoint waits after a failed engine before it tries another. Pure."""

from controlplane.endpoints.states import Reason

# The engine's or the spec's own fault: trying again at once would fail again at once.
_ENGINE = frozenset(
    {
        Reason.FETCH_FAILED,
        Reason.MODEL_NOT_FOUND,
        Reason.IMAGE_NOT_FOUND,
        Reason.ENGINE_EXITED,
        Reason.PROBE_FAILED,
        Reason.TOOL_PROBE_FAILED,
        Reason.SCHEMA_PROBE_FAILED,
        Reason.START_TIMEOUT,
        Reason.WALLS_MISSING,
    }
)


def counts(reason: Reason) -> bool:
    """Whether a failure for this reason defers the next try; a node's death does not, nor a device
    that is not clean: the report that says so takes it out of what may be used."""
    return reason in _ENGINE


def delay_s(failures: int, base_s: float, max_s: float) -> float:
    """`base_s` after the first failure in a row, doubled with each further one, up to `max_s`."""
    doublings = min(max(failures, 1) - 1, 30)
    return min(max_s, base_s * 2.0**doublings)
