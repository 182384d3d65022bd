"""The room's tables, classified: the proofs of what was used."""

from functools import partial

from billing.meters import models as meters
from compliance.privacy import registry
from compliance.privacy.registry import CONTROLLER, levels

_proof = partial(
    registry.table,
    category="usage",
    role=CONTROLLER,
    purpose="proving what was used",
    basis="contract",
)


def register() -> None:
    _proof(
        meters.NodeCertificate,
        retention="voucher",
        columns=levels(none="sha256 node_id der seen_at"),
    )
    _proof(
        meters.NodeBatch,
        retention="meter_evidence",
        columns=levels(
            none="""id node_id machine_boot sha256 signature certificate_sha256 received_at
            problem""",
            pseudonymous="body account_id",
        ),
    )
    _proof(
        meters.NodeRecord,
        retention="meter_evidence",
        columns=levels(
            none="""id batch_id node_id machine_boot seq state devices mono_start_us mono_end_us
            before_us wall_start wall_end received_at""",
            pseudonymous="replica_id",
        ),
    )
    _proof(
        meters.MeterFinding,
        retention="voucher",
        columns=levels(
            none="id key kind at found_at node_id interval_id seconds detail blocks explained_at",
            pseudonymous="replica_id account_id project_id endpoint_id explained_by",
            personal="explanation",
        ),
    )
    _proof(
        meters.MeteringDigest,
        retention="voucher",
        columns=levels(
            none="id number hour events events_sha256 previous_sha256 sha256 made_at",
            pseudonymous="account_id",
        ),
    )
