"""The foundation's own tables, and Django's that nobody else answers for, classified."""

from functools import partial

from django.contrib.auth.models import Group, Permission
from django.contrib.contenttypes.models import ContentType
from django.contrib.sessions.models import Session

from compliance.keys import models as keys
from compliance.log import models as log
from compliance.models import AuditEvent, EventSecret, Export, Tombstone
from compliance.privacy import models as privacy
from compliance.privacy import registry
from compliance.privacy.registry import CONTROLLER, levels

_evidence = partial(
    registry.table,
    category="evidence",
    role=CONTROLLER,
    purpose="showing afterwards who did what",
    basis="legitimate_interest",
)
_django = partial(
    registry.table,
    category="catalogue",
    role=CONTROLLER,
    purpose="the framework's own",
    basis="none",
    retention="framework",
)


def register() -> None:
    registry.table(
        Session,
        category="people",
        role=CONTROLLER,
        purpose="staying signed in",
        basis="contract",
        retention="session",
        columns=levels(none="expire_date", pseudonymous="session_data", secrets="session_key"),
    )
    _evidence(
        AuditEvent,
        retention="audit_body",
        columns=levels(
            none="recorded_at action outcome actor_type target_type region request_id",
            pseudonymous="id log_id actor_id target_id body",
        ),
    )
    _evidence(
        EventSecret,
        retention="audit_opening",
        location="database-sealed",
        columns=levels(none="id path nonce", pseudonymous="event_id", personal="ciphertext"),
    )
    _evidence(
        Export,
        retention="export_record",
        columns=levels(
            none="""id kind period_start period_end created_at completed_at manifest_sha256 path
            size_bytes failure profile rows_done choice""",
            pseudonymous="log_id requested_by about",
            personal="reason",
        ),
    )
    _evidence(
        Tombstone,
        retention="tombstone",
        columns=levels(
            none="id action target_type at journaled_at",
            pseudonymous="event_id target_id facts",
        ),
    )
    _evidence(
        log.LogSubscription,
        retention="account",
        location="database-sealed",
        columns=levels(
            none="""id region kind via form log_id next_index created_at sent_at next_try_at
            failures failure ended_at""",
            pseudonymous="owner host",
            personal="sealed",
        ),
    )
    _log()
    _keys()
    _privacy()
    _frame()


def _log() -> None:
    """Hashes and heads: of nobody, but for whose log it is."""
    for model, none in (
        (log.Log, "id number origin size peaks opened_at closed_at refused"),
        (log.LogPending, "event_id leaf_hash recorded_at queued_at"),
        (log.LogCheckpoint, "id log_id size root note signed_at salt blind"),
        (log.LogAnchor, "id checkpoint_id kind place receipt at"),
    ):
        _evidence(model, retention="audit_body", columns=levels(none=none, pseudonymous="owner"))
    for grown, none in (
        (log.LogLeaf, "log_id index event_id leaf_hash recorded_at queued_at"),
        (log.LogNode, "log_id level index hash"),
    ):
        _evidence(grown, retention="audit_body", columns=levels(none=none))
    _evidence("compliance_logbackfill", retention="audit_body", columns=levels(none="after_id"))


def _keys() -> None:
    """Whose a key is, and who had it destroyed; no key lies there in the clear."""
    _evidence(
        keys.DataKey,
        retention="tombstone",
        location="database-sealed",
        columns=levels(
            none="""id subject_kind purpose kek created_at rewrapped_at destroyed_at
            keep_until""",
            pseudonymous="subject_id",
            secrets="wrapped",
        ),
    )
    _evidence(
        keys.KekVersion,
        retention="tombstone",
        columns=levels(none="kek created_at noted_at rewrapped_at retired_at"),
    )
    _evidence(
        keys.KeyDestruction,
        retention="tombstone",
        columns=levels(
            none="""id subject_kind reason_code state requested_at decided_at key_ids
            backups_until event_id""",
            pseudonymous="subject_id requested_by decided_by",
        ),
    )


def _frame() -> None:
    _django(ContentType, columns=levels(none="id app_label model"))
    _django(Permission, columns=levels(none="id name content_type_id codename"))
    _django(Group, columns=levels(none="id name"))
    _django(Group.permissions.through, columns=levels(none="id group_id permission_id"))
    _django("django_migrations", columns=levels(none="id app name applied"))


def _privacy() -> None:
    kept = partial(
        _evidence,
        retention="accountability",
        basis="legal_obligation",
        purpose="answering for what is done with personal data",
    )
    kept(
        privacy.RetentionRule,
        columns=levels(
            none="""id code category basis amount unit calendar_year starts action jurisdiction
            source ground effective_from effective_to created_at""",
            pseudonymous="created_by",
        ),
    )
    kept(
        privacy.RetentionRun,
        columns=levels(
            none="id code rule_id at since before done held failed complete event_id",
            pseudonymous="log",
        ),
    )
    kept(
        privacy.Hold,
        columns=levels(
            none="id subject_kind placed_at lifted_at",
            pseudonymous="log subject_id placed_by lifted_by",
            personal="reason",
        ),
    )
    kept(
        privacy.ProcessingContact,
        columns=levels(
            none="id part changed_at",
            pseudonymous="scope changed_by",
            personal="name address email phone",
        ),
    )
    kept(
        privacy.ProcessingVersion,
        columns=levels(
            none="id number sha256 at event_id", pseudonymous="scope", personal="document"
        ),
    )
