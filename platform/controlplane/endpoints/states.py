"""The vocabulary of a replica's life: states, arcs and reasons. Pure; the door is lifecycle.py.

    requested ──▶ placed ──▶ fetching ──▶ starting ──▶ probing ──▶ ready ◀──▶ unreachable
        │            │           │            │            │         │             │
        │            ╰───────────┴────────────┴─────┬──────╯         ▼             │
        ▼                                           ▼             draining         │
     stopped ◀──────────────────────────────────  failed             │             │
        ▲                                                            ▼             ▼
        ╰─────────────────────────────────────────────────────────  stopped / failed

    ready ──▶ asleep ──▶ starting: where an engine, asleep, frees its device's memory. It keeps
    its devices, is not routable and not billed, and yields to whoever needs them.

Who takes an arc: the reconciler takes requested→placed, →asleep, asleep→starting, →draining,
→unreachable and →failed for what a node cannot report any more; the node's reports take the
others. A replica holds its devices from `placed` until it is `stopped` or `failed` *and* its node
has confirmed that no engine of it runs (`Replica.released_at`).
"""

from enum import StrEnum


class State(StrEnum):
    REQUESTED = "requested"  # wanted; no devices yet
    PLACED = "placed"  # devices held; the node has not answered yet
    FETCHING = "fetching"  # the node brings weights or the engine environment
    STARTING = "starting"  # the engine's process runs and loads
    PROBING = "probing"  # it listens; the smallest inference is under way
    READY = "ready"  # it answered: routable and billed
    UNREACHABLE = "unreachable"  # was ready, its node is quiet: not billed
    ASLEEP = "asleep"  # its engine is asleep, or about to be: not routable, not billed
    DRAINING = "draining"  # stop was asked: not routable, not billed
    STOPPED = "stopped"
    FAILED = "failed"


LIVE = frozenset(State) - {State.STOPPED, State.FAILED}
COMING = frozenset({State.REQUESTED, State.PLACED, State.FETCHING, State.STARTING, State.PROBING})
# The order in which a node reports; a report may skip states but never goes back.
START_ORDER = (State.PLACED, State.FETCHING, State.STARTING, State.PROBING, State.READY)

ARCS: dict[State, frozenset[State]] = {
    State.REQUESTED: frozenset({State.PLACED, State.STOPPED, State.FAILED}),
    State.PLACED: frozenset(
        {State.FETCHING, State.STARTING, State.PROBING, State.READY}
        | {State.DRAINING, State.STOPPED, State.FAILED}
    ),
    State.FETCHING: frozenset(
        {State.STARTING, State.PROBING, State.READY} | {State.DRAINING, State.STOPPED, State.FAILED}
    ),
    State.STARTING: frozenset(
        {State.PROBING, State.READY, State.DRAINING, State.STOPPED, State.FAILED}
    ),
    State.PROBING: frozenset({State.READY, State.DRAINING, State.STOPPED, State.FAILED}),
    State.READY: frozenset(
        {State.UNREACHABLE, State.ASLEEP, State.DRAINING, State.STOPPED, State.FAILED}
    ),
    State.ASLEEP: frozenset(
        {State.STARTING, State.READY} | {State.DRAINING, State.STOPPED, State.FAILED}
    ),
    State.UNREACHABLE: frozenset({State.READY, State.DRAINING, State.STOPPED, State.FAILED}),
    State.DRAINING: frozenset({State.STOPPED, State.FAILED}),
    State.STOPPED: frozenset(),
    State.FAILED: frozenset(),
}


class Reason(StrEnum):
    """Why a transition happened. A closed list: people and alarms branch on it."""

    SCALE_UP = "scale_up"  # the endpoint wants more replicas
    WAKE = "wake"  # a request waits at an endpoint that slept
    SCHEDULED = "scheduled"  # a schedule or a declared burst wants it warm
    PLACED = "placed"
    NODE_REPORT = "node_report"  # the ordinary progress of a start
    PROBE_PASSED = "probe_passed"
    ADOPTED = "adopted"  # a node came back with the engine still running
    SCALE_DOWN = "scale_down"
    IDLE = "idle"  # scale to zero, or to sleep
    CANNOT_SLEEP = "cannot_sleep"  # its engine refused, and serves on
    YIELDED = "yielded"  # it slept on devices that another replica needed
    CAPPED = "capped"  # what may wait warm today is used up
    STOP_REQUESTED = "stop_requested"
    SPEC_CHANGED = "spec_changed"
    ROLLED_BACK = "rolled_back"  # its version is not wished for any more
    NODE_DRAIN = "node_drain"
    STOPPED = "stopped"
    NO_CAPACITY = "no_capacity"  # no node has the devices free
    FETCH_FAILED = "fetch_failed"
    MODEL_NOT_FOUND = "model_not_found"
    ACCESS_DENIED = "access_denied"  # the source refuses the project's credentials
    ENGINE_EXITED = "engine_exited"  # the process ended by itself
    PROBE_FAILED = "probe_failed"
    TOOL_PROBE_FAILED = "tool_probe_failed"  # it promised tools and makes no tool call
    SCHEMA_PROBE_FAILED = "schema_probe_failed"  # … and JSON schema
    START_TIMEOUT = "start_timeout"
    DEVICE_DIRTY = "device_dirty"  # what an engine before left on its device does not go away
    NODE_UNREACHABLE = "node_unreachable"
    NODE_LOST = "node_lost"  # quiet for longer than the grace
    ENGINE_MISSING = "engine_missing"  # the node says that no such engine runs
    BUDGET_EXHAUSTED = "budget_exhausted"  # a hard budget does not pay for its devices
    IMAGE_NOT_FOUND = "image_not_found"
    CONTAINERS_MISSING = "containers_missing"  # no node of the pool runs images
    WALLS_MISSING = "walls_missing"  # the node cannot isolate tenants and the pool is shared
