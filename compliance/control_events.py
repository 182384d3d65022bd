"""Evidence that stands in the audit log itself: which events speak for which control.

Each row is one event with its index in the log, so that a bundle's own log/ proves that none is
missing: whoever counts the events of those actions in log/events.jsonl must come to the same.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from itertools import islice

import rfc8785

from compliance import annex_pack, control_tables, controls
from compliance.actions import ACTIONS
from compliance.bundles.kinds import Rows
from compliance.bundles.tables import Row
from compliance.log.models import Log, LogLeaf
from compliance.models import AuditEvent

COLUMNS = (
    *("index", "event", "at", "action", "outcome", "reason", "actor_type", "actor"),
    *("target_type", "target", "region", "request", "change"),
)
_AT_ONCE = 1_000
_PLATFORM = (controls.PLATFORM,)
# Producer: controls, actions (`noun.*`: all of that noun), and whose packs have it.
_TOLD: tuple[tuple[str, tuple[str, ...], tuple[str, ...], tuple[str, ...]], ...] = (
    (
        "access_changes",
        ("A.5.15", "A.5.16", "A.5.18", "A.8.2"),
        ("membership.*", "user.create", "organization.create", "project.create", "api_key.*"),
        controls.OWNERS,
    ),
    (
        "authentication",
        ("A.5.17", "A.8.5"),
        ("session.*", "user.set_password", "api_key.rotate"),
        controls.OWNERS,
    ),
    ("denied_access", ("A.8.3",), ("access.deny", "node.refuse"), controls.OWNERS),
    (
        "disclosures",
        ("A.5.14", "A.5.28", "A.8.12"),
        ("export.*", "event.disclose"),
        controls.OWNERS,
    ),
    ("secret_use", ("A.5.17", "A.8.12", "A.8.24"), ("secret.*",), controls.OWNERS),
    (
        "configuration_changes",
        ("A.8.9",),
        ("organization.*", "project.update", "pool.*", "region.create", "engine_version.*"),
        controls.OWNERS,
    ),
    (
        "changes",
        ("A.8.19", "A.8.32"),
        (
            *("endpoint.create", "endpoint.update", "endpoint.rollback", "endpoint.delete"),
            *("rollout.*", "agent_rollout.*", "engine_version.*", "adapter.*", "alias.*"),
        ),
        controls.OWNERS,
    ),
    ("engine_blocks", ("A.8.8",), ("engine_version.*",), _PLATFORM),
    (
        "deletions",
        ("A.8.10",),
        (
            *("event.redact", "file.delete", "file.expire", "upload.delete", "upload.expire"),
            *("secret.delete", "archive.destroy", "backup.delete", "node.erase", "node.erased"),
            *("node.decommissioned", "device.prove_clean", "device.find_dirty"),
            *("erasure.*", "data_key.destroy"),
        ),
        controls.OWNERS,
    ),
    (
        "equipment",
        ("A.5.9", "A.7.13", "A.7.14"),
        (
            *("node.enroll", "node.delete", "node.decommission", "node.decommissioned"),
            *("node.erased", "maintenance.*", "device.replace", "device.replaced"),
        ),
        _PLATFORM,
    ),
    ("backups", ("A.5.29", "A.5.30", "A.8.13"), ("backup.*",), _PLATFORM),
    (
        "log_keeping",
        ("A.5.33", "A.8.15"),
        (
            *("log.succeed", "log.subscribe", "log.unsubscribe", "log.read"),
            *("log.rotate_key", "log.retire_key"),
        ),
        controls.OWNERS,
    ),
    (
        "alarms",
        ("A.8.16",),
        (
            *("node.unreachable", "node.return", "node.lost", "node.find_stranger"),
            *("node.end_orphan", "device.find_dirty", "pool.health_brake", "replica.fail"),
            *("request.fail", "session.refuse", "access.deny"),
        ),
        controls.OWNERS,
    ),
    (
        "key_changes",
        ("A.8.24",),
        ("data_key.*", "kms.*", "log.rotate_key", "log.retire_key"),
        controls.OWNERS,
    ),
    ("privacy_requests", ("A.5.34",), ("subject_request.*", "erasure.*"), controls.OWNERS),
    ("clock_faults", ("A.8.17",), ("clock.fault",), _PLATFORM),
    (
        "network_changes",
        ("A.8.20", "A.8.22", "A.8.23"),
        ("organization.allow_egress",),
        controls.OWNERS,
    ),
    (
        "certificates",
        ("A.8.20", "A.8.21", "A.8.24"),
        ("node.enroll", "node.renew", "node.revoke", "gateway.*", "enrollment_token.*"),
        _PLATFORM,
    ),
)
_PRIVILEGED = "every event of the operator's log whose actor is a person: operators alone act there"


def register() -> None:
    """The pack, and the foundation's own producers of it."""
    annex_pack.register()
    control_tables.register()
    for name, refs, words, logs in _TOLD:
        register_events(*refs, producer=name, actions=words, logs=logs)
    people = {"actor_type": ("user",)}
    controls.register(
        "A.8.2",
        producer="privileged_acts",
        population=_PRIVILEGED,
        columns=COLUMNS,
        rows=_rows(people),
        logs=_PLATFORM,
        events=people,
    )


def register_events(
    *refs: str, producer: str, actions: Sequence[str], logs: Sequence[str] = controls.OWNERS
) -> None:
    """A producer whose rows are the events of these actions (`noun.*`: every one of that noun)."""
    chosen = {"action": named(actions)}
    controls.register(
        *refs,
        producer=producer,
        population="every event of the log of one of these actions",
        columns=COLUMNS,
        rows=_rows(chosen),
        logs=logs,
        events=chosen,
    )


def named(words: Sequence[str]) -> tuple[str, ...]:
    """Raises ValueError on what no action is called."""
    found: set[str] = set()
    for word in words:
        these = {one for one in ACTIONS if one == word or one.startswith(word.rstrip("*"))}
        these = these if word.endswith(".*") else these & {word}
        if not these:
            raise ValueError(f"no action is called {word}")
        found |= these
    return tuple(sorted(found))


def _rows(chosen: Mapping[str, Sequence[str]]) -> Rows:
    def rows(log: str, start: datetime, end: datetime) -> Iterator[Row]:
        within = {"log_id": log, "recorded_at__gte": start, "recorded_at__lt": end}
        wanted = {f"{column}__in": list(those) for column, those in chosen.items()}
        events = AuditEvent.objects.filter(**within, **wanted).order_by("id")
        found = events.iterator(chunk_size=_AT_ONCE)
        while some := list(islice(found, _AT_ONCE)):
            places = indices(log, [event.id for event in some])
            for event in some:
                yield _row(event, places.get(event.id))

    return rows


def indices(log: str, events: Sequence[str]) -> dict[str, int]:
    """The index of each event in the newest log of that owner in which it stands."""
    logs = Log.objects.filter(owner=log).order_by("number").values_list("id", flat=True)
    found: dict[str, int] = {}
    for one in logs:
        leaves = LogLeaf.objects.filter(log_id=one, event_id__in=events)
        found |= dict(leaves.values_list("event_id", "index"))
    return found


def _row(event: AuditEvent, index: int | None) -> Row:
    body = json.loads(bytes(event.body))
    change = body.get("change")
    return (
        *(index, event.id, event.recorded_at, event.action, event.outcome),
        *(body["outcome"].get("reason_code", ""), event.actor_type, event.actor_id),
        *(event.target_type, event.target_id, event.region, event.request_id),
        rfc8785.dumps(change).decode() if change else "",
    )
