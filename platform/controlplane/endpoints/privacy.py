"""The room's tables, classified: endpoints and what runs for them."""

from functools import partial

from compliance.privacy import registry
from compliance.privacy.registry import CONTROLLER, PROCESSOR, levels
from controlplane.endpoints import models as ep

_serving = partial(
    registry.table,
    category="operation",
    role=PROCESSOR,
    purpose="serving a tenant's models",
    basis="instruction",
    retention="operation",
)
_model = partial(
    registry.table,
    category="models",
    role=PROCESSOR,
    purpose="having a tenant's models where they run",
    basis="instruction",
)


def register() -> None:
    _wishes()
    _replicas()
    _times()
    _looks()
    _models()
    _lessons()


def _wishes() -> None:
    _serving(
        ep.Endpoint,
        columns=levels(
            none="""region_code source revision pinned engine engine_version device_kind
            device_count node_count device_share min_replicas max_replicas scale_to_zero_timeout_s
            ttft_target_s
            keep_alive keep_warm_cap queue_limit queue_s start_seconds generation created_at
            stopped_at deleted_at wake_requested_at retry_at failures unfunded_at shared_at
            unshared_at capabilities""",
            pseudonymous="id project_id pool_id name secret model adapters quote_id",
            personal="engine_args image schedules bursts",
        ),
    )
    _serving(
        ep.EndpointVersion,
        columns=levels(
            none="id number created_at outlook",
            pseudonymous="endpoint_id created_by",
            personal="spec note",
        ),
    )
    _serving(
        ep.Rollout,
        columns=levels(
            none="""id from_number to_number plan state reason share step step_at proved_at
            replaced_at progress_at most_ready failures retry_at looks health started_at
            ended_at""",
            pseudonymous="endpoint_id started_by",
            personal="detail note",
        ),
    )
    _serving(
        ep.Alias,
        columns=levels(none="fallback_on created_at", pseudonymous="id project_id name targets"),
    )


def _replicas() -> None:
    _serving(
        ep.Replica,
        columns=levels(
            none="""id generation node_id node_count state reason state_at created_at
            stop_requested_at released_at address start_tier start_flags can_sleep engine_report
            adapters proof phase_seconds bytes_done bytes_total progress_at wish_version
            funded_until""",
            pseudonymous="endpoint_id egress",
            special="log_tail detail",
        ),
    )
    _serving(
        ep.LogLine,
        retention="engine_log",
        columns=levels(none="id number", pseudonymous="replica_id", special="text"),
    )
    _serving(
        ep.Transition,
        columns=levels(
            none="id from_state to_state reason at seconds",
            pseudonymous="replica_id",
            special="detail",
        ),
    )
    for model, none in (
        (ep.Member, "id rank node_id phase bytes_done bytes_total wish_version released_at"),
        (ep.DeviceClaim, "id device_id milli"),
        (ep.PlacementNote, "rejected at"),
        (ep.Reservation, "id node_id kind count expires_at"),
    ):
        _serving(model, columns=levels(none=none, pseudonymous="replica_id"))

    _serving(
        ep.PlacementRecord,
        retention="accountability",
        columns=levels(
            none="id generation rank node_id pool_id region country pin reason decided_at",
            pseudonymous="organization_id project_id endpoint_id replica_id",
        ),
    )


def _times() -> None:
    """Seconds that were served are what bills are made of: kept with them."""
    times = partial(_serving, retention="voucher")
    times(
        ep.ServingInterval,
        columns=levels(
            none="""id started_at ended_at node_offset_s served_s metered_s proved_us reached_us
            fault settled_s returned_s reconciled_at""",
            pseudonymous="replica_id",
        ),
    )
    times(
        ep.AsleepInterval,
        columns=levels(
            none="id started_at ended_at proved_us metered_s", pseudonymous="replica_id"
        ),
    )
    _serving(
        ep.Start,
        columns=levels(
            none="""id tier ready reason asked_at ended_at routed_at total_s phases target_s
            missed""",
            pseudonymous="endpoint_id replica_id",
        ),
    )


def _looks() -> None:
    """Levels that are replaced as they change."""
    live = partial(_serving, retention="live_state")
    live(
        ep.Activity,
        columns=levels(
            none="""id gateway_id worker in_flight waiting uncached_tokens kv_tokens running pressed
            people idle_s prefill_tps at""",
            pseudonymous="endpoint_id",
        ),
    )
    live(
        ep.Scaling,
        columns=levels(
            none="""replicas tier why looked_at look_at hinted_at idle_since kept_from gaps capacity
            warm warm_day warm_s warm_euro""",
            pseudonymous="endpoint_id",
        ),
    )
    live(
        ep.VersionHealth,
        columns=levels(none="id rollout_id version gateway_id requests errors first total at"),
    )
    live(ep.Pulse, basis="none", columns=levels(none="name since at"))


def _models() -> None:
    _model(
        ep.Upload,
        retention="upload",
        columns=levels(
            none="created_at finished_at expires_at",
            pseudonymous="id project_id",
            personal="name",
        ),
    )
    _model(
        ep.UploadFile,
        retention="upload",
        columns=levels(
            none="id number size_bytes sha256 received_bytes verified",
            pseudonymous="upload_id",
            personal="path",
        ),
    )
    _model(
        ep.ModelFacts,
        retention="operation",
        columns=levels(
            none="id source asked revision tensors seen_at",
            pseudonymous="project_id model",
            personal="config",
        ),
    )
    _model(
        ep.Pull,
        retention="operation",
        columns=levels(
            none="id pool_id source revision created_at cancelled_at",
            pseudonymous="project_id secret model",
        ),
    )
    _model(
        ep.PullNode,
        retention="operation",
        columns=levels(
            none="id pull_id node_id state bytes_done bytes_total revision reason",
            personal="detail",
        ),
    )
    _model(
        ep.Quote,
        retention="quote",
        columns=levels(
            none="source revision engine_version answer created_at",
            pseudonymous="id project_id model",
            personal="body",
        ),
    )


def _lessons() -> None:
    lesson = partial(
        registry.table,
        category="operation",
        role=CONTROLLER,
        purpose="predicting memory, speed and price better",
        basis="legitimate_interest",
    )
    lesson(
        ep.MeasuredStart,
        retention="operation",
        columns=levels(
            none="""shared engine_version architecture device backend ranks arguments printed
            residual_bytes weights_ratio at""",
            pseudonymous="replica_id organization_id",
        ),
    )
    lesson(
        ep.ServedDay,
        retention="served_day",
        columns=levels(none="id day figures taught_at", pseudonymous="endpoint_id"),
    )
    lesson(
        ep.SpeedCorrection,
        retention="speed_correction",
        columns=levels(
            none="about shared model device ranks quantization ratio ratio_ttft at",
            pseudonymous="organization_id",
        ),
    )
    registry.table(
        ep.EngineVersion,
        category="catalogue",
        role=CONTROLLER,
        purpose="knowing which engines may run",
        basis="none",
        retention="catalogue",
        columns=levels(
            none="id engine version status image note replacement deadline created_at changed_at"
        ),
    )
