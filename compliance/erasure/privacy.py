"""The tables of requests and erasures, classified: ids, codes, and what is sought for a while."""

from functools import partial

from compliance.erasure.models import Erasure, ErasureStep
from compliance.privacy import registry
from compliance.privacy.registry import CONTROLLER, levels
from compliance.subject_requests.models import SubjectRequest

_register = partial(
    registry.table,
    category="evidence",
    role=CONTROLLER,
    purpose="showing that requests of data subjects were answered",
    basis="legal_obligation",
    retention="request_register",
)


def register() -> None:
    _register(
        SubjectRequest,
        columns=levels(
            none="""id type role region channel received_at identity verified_at due_on term
            extended_at extension_reason decision refusal_ground decided_at closed_at output""",
            pseudonymous="subject_id log_id opened_by decided_by",
        ),
    )
    _register(
        Erasure,
        columns=levels(
            none="""id subject_kind region state plan plan_sha256 planned_at approved_at began_at
            executed_at verified_at issued_at findings certificate_id certificate signature
            failure""",
            pseudonymous="subject_id log_id request_id planned_by approved_by logs told_by",
            secrets="known",
        ),
    )
    _register(
        ErasureStep,
        columns=levels(none="id number store outcome done_at", pseudonymous="erasure_id"),
    )
