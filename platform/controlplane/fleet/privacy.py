"""The room's tables, classified: machines, and who of the operator's people works on them."""

from functools import partial

from compliance.privacy import registry
from compliance.privacy.registry import CONTROLLER, levels
from controlplane.fleet import models as fleet

_machine = partial(
    registry.table,
    category="machines",
    role=CONTROLLER,
    purpose="running the machines that serve",
    basis="legitimate_interest",
    retention="machines",
)


def register() -> None:
    _places()
    _work()
    _releases()


def _places() -> None:
    _machine(
        fleet.Region,
        columns=levels(
            none="code country name ca_certificate record_public_key created_at",
            secrets="ca_key record_key",
        ),
    )
    _machine(
        fleet.Pool,
        columns=levels(
            none="""id region_id name share_standby keep_block share_devices health_policy
            health_braked_at egress_networks created_at""",
            pseudonymous="organization_id",
        ),
    )
    _machine(
        fleet.Node,
        columns=levels(
            none="""id pool_id name certificate_sha256 certificate_expires_at
            previous_certificate_sha256 boot_id report_seq report_signed_at heartbeat_at lease_until
            unreachable_at cordoned_at drain_requested_at removed_at agent_version inventory
            desired_version has_findings health_action health_reason health_since in_gangs
            created_at"""
        ),
    )
    _machine(
        fleet.Device,
        columns=levels(
            none="id node_id index kind name uuid serial memory_bytes healthy retiring_at"
        ),
    )
    _machine(
        fleet.Revocation, columns=levels(none="id region_id kind subject issued_until expired_by")
    )
    _machine(
        fleet.EnrollmentToken,
        columns=levels(
            none="id pool_id node_id expires_at used_at used_key_sha256 admitted_id created_at",
            pseudonymous="created_by",
            secrets="hash",
        ),
    )
    _machine(
        fleet.NodeEvent,
        columns=levels(
            none="id node_id number kind at recorded_at device_index detail",
            pseudonymous="from_organization to_organization",
        ),
    )
    _machine(
        fleet.NodeFinding,
        retention="node_finding",
        columns=levels(
            none="""id node_id check_name device severity text cure since seen_at ended_at
            acknowledged_at"""
        ),
    )


def _work() -> None:
    _machine(
        fleet.Maintenance,
        columns=levels(
            none="""id node_id state starts_at ends_at take_back drained result created_at
            started_at ended_at""",
            pseudonymous="told created_by",
            personal="message",
        ),
    )
    _machine(
        fleet.Decommission,
        columns=levels(
            none="""id node_id device_id state unconfirmed was successor moved requested_at
            drained_at erased erased_at credential_erased_at revoked_at closed_at record signature
            signed_at""",
            pseudonymous="requested_by",
            personal="reason",
        ),
    )


def _releases() -> None:
    _machine(fleet.AgentRelease, columns=levels(none="sha256 version content created_at"))
    _machine(
        fleet.AgentRollout,
        columns=levels(
            none="""id pool_id release_id state canary_share wave_size pause_s limit_s attempt
            halt_reason created_at ended_at""",
            pseudonymous="created_by",
        ),
    )
    _machine(fleet.AgentUpdate, columns=levels(none="id rollout_id node_id wave told_at done_at"))
