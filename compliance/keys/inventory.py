"""What auditors take away about keys: which there are, what they do, and what was destroyed.

No key and no wrapped key is in it. The operator's log has what is of people and of the KMS; an
organization's its own data keys.
"""

import json
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

from django.db.models import Q

from compliance import audit, controls, exports
from compliance.keys.models import DataKey, KekVersion, KeyDestruction
from compliance.models import AuditEvent, Export

_Row = tuple[exports.Value, ...]
KEYS = (
    *("id", "subject_kind", "subject_id", "purpose", "kek", "state", "created_at"),
    *("rewrapped_at", "destroyed_at", "keep_until"),
)
KEKS = ("kek", "state", "created_at", "noted_at", "rewrapped_at", "retired_at")
CRYPTO = ("use", "algorithm", "key", "quantum", "plan")
_SYMMETRIC = "not broken by known quantum algorithms at this size"
_SIGNED = "forgeable once a large quantum computer exists; not before, and not backwards"
_AGREED = "recorded traffic could be read then"
# use, algorithm, key, post-quantum standing, plan
ALGORITHMS: tuple[tuple[str, str, str, str, str], ...] = (
    (
        "sealing at rest",
        "AES-256-GCM",
        "data keys, or STOA_MASTER_KEY by HKDF-SHA-256",
        _SYMMETRIC,
        "none needed",
    ),
    (
        "wrapping of data keys",
        "AES-256-GCM",
        "key-encryption key: scrypt file, or OpenBao Transit",
        _SYMMETRIC,
        "none needed",
    ),
    ("hashes of API keys", "HMAC-SHA-256", "STOA_KEY_PEPPER", _SYMMETRIC, "none needed"),
    ("passwords", "Argon2id", "a salt each", _SYMMETRIC, "none needed"),
    (
        "logs, commitments, files of bundles",
        "SHA-256",
        "salts of commitments",
        "collisions stay out of reach",
        "none needed",
    ),
    (
        "heads of logs, manifests",
        "Ed25519",
        "the signer's key",
        _SIGNED,
        "a second signature line with ML-DSA-44; keep witnessed heads until then",
    ),
    (
        "regions' authorities",
        "ECDSA P-256, SHA-256",
        "of each region, sealed by STOA_MASTER_KEY",
        _SIGNED,
        "new authority with ML-DSA once TLS stacks take it; certificates live a day",
    ),
    (
        "nodes' and gateways' certificates",
        "Ed25519 or ECDSA P-256",
        "drawn on each host",
        _SIGNED,
        "follows the authority",
    ),
    (
        "nodes to control plane, gateways to nodes",
        "TLS 1.3",
        "certificates of the region",
        _AGREED,
        "X25519MLKEM768 as soon as OpenSSL of both ends offers it (3.5)",
    ),
    (
        "clients to gateway and console",
        "TLS 1.2 or 1.3",
        "the operator's certificate",
        _AGREED,
        "X25519MLKEM768 in the proxy or OpenSSL 3.5",
    ),
    (
        "backups",
        "age: X25519, ChaCha20-Poly1305",
        "recipients of the operator",
        _AGREED,
        "age recipients with ML-KEM; make backups anew to them",
    ),
)


def register() -> None:
    exports.register("data_keys", KEYS, data_keys, personal=("subject_id",), general=False)
    platform = (exports.PLATFORM,)
    exports.register("kek_versions", KEKS, kek_versions, general=False, of=platform)
    exports.register("crypto_inventory", CRYPTO, crypto, general=False)
    exports.register_kind(
        "keys_crypto",
        "Keys, and where which cryptography is used",
        ("data_keys", "kek_versions", "crypto_inventory"),
    )
    exports.register_kind(
        "key_destruction",
        "Certificate of the destruction of keys",
        (),
        documents=certificate,
        about=("kdr",),
        known=lambda log, id: _done(log, id) is not None,
    )
    controls.register(
        "A.8.24",
        producer="data_keys",
        population="every data key that existed in the period: of an organization in its pack, of"
        " people in the operator's",
    )
    controls.register(
        "A.8.24",
        producer="crypto_inventory",
        population="every use of cryptography in this version, with a note on its migration to"
        " post-quantum algorithms",
    )


def data_keys(log: str, start: datetime, end: datetime) -> Iterator[_Row]:
    """Those that existed in the period, without what they are made of."""
    mine = Q(subject_kind="person") if log == audit.PLATFORM else Q(subject_id=log)
    lived = Q(destroyed_at=None) | Q(destroyed_at__gte=start)
    for one in DataKey.objects.filter(mine & lived, created_at__lt=end).order_by("id").iterator():
        keep_until = one.keep_until.isoformat() if one.keep_until else None
        ended = one.destroyed_at is not None and one.destroyed_at < end
        yield (
            *(one.id, one.subject_kind, one.subject_id, one.purpose, one.kek),
            *("destroyed" if ended else "active", one.created_at, one.rewrapped_at),
            *(one.destroyed_at if ended else None, keep_until),
        )


def kek_versions(log: str, start: datetime, end: datetime) -> Iterator[_Row]:
    for one in KekVersion.objects.filter(created_at__lt=end).order_by("created_at", "kek"):
        state = "retired" if one.retired_at else "deactivated" if one.rewrapped_at else "active"
        yield (*(one.kek, state, one.created_at, one.noted_at, one.rewrapped_at, one.retired_at),)


def crypto(log: str, start: datetime, end: datetime) -> Iterator[_Row]:
    yield from ALGORITHMS


def certificate(export: Export, folder: Path) -> Iterator[tuple[str, Path]]:
    """`certificate.json`: what was decided, by whom, and the event in which it was done."""
    done = _done(export.log_id, export.about)
    if done is None or done.decided_at is None:
        raise LookupError(f"no destruction {export.about}")
    event = AuditEvent.objects.get(id=done.event_id)
    until = done.backups_until.isoformat() if done.backups_until else None
    said = {
        "destruction": done.id,
        "subject": {"kind": done.subject_kind, "id": done.subject_id},
        "reason": done.reason_code,
        "requested": {"by": done.requested_by, "at": audit.stamp(done.requested_at)},
        "approved": {"by": done.decided_by, "at": audit.stamp(done.decided_at)},
        "keys_destroyed": done.key_ids,
        "backups_until": until,
        "event": json.loads(bytes(event.body)),
        "limits": [
            "it does not show that nobody had read or exported a value before",
            "backups hold a wrapped copy until that day, as long as new ones are made",
            "what STOA_MASTER_KEY sealed before there were data keys is not covered",
        ],
    }
    path = folder / "certificate.json"
    path.write_text(json.dumps(said, indent=1, sort_keys=True) + "\n")
    yield "documents/certificate.json", path


def _done(log: str, id: str) -> KeyDestruction | None:
    found = KeyDestruction.objects.filter(id=id, state=KeyDestruction.DONE)
    if log == audit.PLATFORM:
        return found.filter(subject_kind="person").first()
    return found.filter(subject_id=log).first()
