"""The certificate of an erasure: what was done, what is kept and why, and until when backups
still hold it. It names nobody: ids stand in it as hashes."""

import hashlib
from datetime import datetime
from typing import Any

import rfc8785

from compliance import audit, ids
from compliance.erasure.models import Erasure
from compliance.log import signing
from compliance.privacy import stores
from compliance.stamps import stamp

FORMAT = "stoa erasure certificate 1"
KIND = "erasure_certificate"
LIMITS = (
    "It supports evidence of what this installation did at these times.",
    "Backups that were made before are not edited: see `backups`.",
    "Ids that stand in the audit log, the books and the register of requests stay; nothing of this "
    "installation leads from them to a name any more.",
    "It says nothing of copies that others made, of bundles that were fetched, nor of what a "
    "recipient of the log was sent.",
)


def draw_up(erasure: Erasure, now: datetime) -> None:
    """Puts certificate and signature into the erasure, which the caller saves."""
    erasure.certificate_id = erasure.certificate_id or ids.new("cert")
    said = rfc8785.dumps(_said(erasure, now))
    erasure.certificate = said
    digest = hashlib.sha256(said).hexdigest()
    erasure.signature = signing.manifest(KIND, digest, erasure.log_id)


def tell(erasure: Erasure, log: str, actor: audit.Actor, now: datetime) -> str:
    """The event that a log's bundles carry where openings are gone; returns its id."""
    assert erasure.certificate is not None
    digest = hashlib.sha256(bytes(erasure.certificate)).hexdigest()
    return audit.record(
        actor=actor,
        action="erasure.certify",
        target=audit.Target("certificate", erasure.certificate_id),
        log=log,
        region=erasure.region,
        now=now,
        change=[
            audit.Change("certificate_sha256", None, digest),
            audit.Change("subject_sha256", None, hashed(erasure.subject_id)),
            audit.Change("erasure", None, erasure.id),
        ],
    )


def hashed(id: str) -> str:
    """Who has an id finds it again; nobody comes from the hash to the id, which is drawn at random
    (62 bits beside its time)."""
    return hashlib.sha256(f"stoa erasure 1 {id}".encode()).hexdigest()


def _said(erasure: Erasure, now: datetime) -> dict[str, Any]:
    done = [
        {"store": step.store, "place": stores.named(step.store).place, **(step.outcome or {})}
        for step in erasure.steps.order_by("number")
    ]
    keys = sorted({key for step in done for key in step.pop("keys", ())})
    kept = [step for step in done if step["action"] == stores.KEEP and step["rows"]]
    backups = [step for step in kept if step["place"] == "backups"]
    return {
        "format": FORMAT,
        "id": erasure.certificate_id,
        "erasure": erasure.id,
        "subject": {"kind": erasure.subject_kind, "sha256": hashed(erasure.subject_id)},
        "request": erasure.request_id or None,
        "basis": "Regulation (EU) 2016/679, Art. 17(1), 28(3)(g)",
        "plan_sha256": erasure.plan_sha256,
        "times": {
            "planned": stamp(erasure.planned_at),
            "approved": _at(erasure.approved_at),
            "begun": _at(erasure.began_at),
            "executed": _at(erasure.executed_at),
            "verified": _at(erasure.verified_at),
            "issued": stamp(now),
        },
        "planned_by_sha256": hashed(erasure.planned_by),
        "approved_by_sha256": hashed(erasure.approved_by),
        "stores": done,
        "keys_destroyed": keys,
        "kept": [step for step in kept if step["place"] != "backups"],
        "backups": {
            "made_before": sum(step["rows"] for step in backups),
            "unreadable_after": max((step["until"] or "" for step in backups), default="") or None,
            "ground": backups[0]["ground"] if backups else "",
        },
        "verification": erasure.findings,
        "limits": list(LIMITS),
    }


def _at(when: datetime | None) -> str | None:
    return stamp(when) if when else None
