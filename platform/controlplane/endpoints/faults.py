"""Which ends of serving are the platform's, so that time is given back. Pure."""

from controlplane.endpoints.states import Reason, State

# A tenant's wish, image or model may end an engine too, and what cannot be told apart counts as
# ours: nothing here is a reason that only a tenant's doing can have.
FAILURES = frozenset(
    {
        Reason.ENGINE_EXITED,
        Reason.ENGINE_MISSING,
        Reason.DEVICE_DIRTY,
        Reason.NODE_UNREACHABLE,
        Reason.NODE_LOST,
    }
)


def gives_back(was: State, to: State, reason: Reason) -> bool:
    """Whether something of what the replica served last is not its tenant's to pay."""
    if to is State.FAILED:
        return was in (State.READY, State.UNREACHABLE) and reason in FAILURES
    return was is State.READY and to is State.DRAINING and reason is Reason.NODE_DRAIN
