"""What of requests and erasures can be taken away as signed bundles."""

import json
from collections.abc import Iterable, Iterator
from datetime import datetime
from pathlib import Path

from compliance import exports
from compliance.erasure.certifying import KIND
from compliance.erasure.models import Erasure, State
from compliance.models import Export
from compliance.subject_requests.models import SubjectRequest

_README = """Drawn up and signed when the erasure was verified: `certificate.json` is what was
signed, `certificate.sig` the signer's note over its SHA-256; the event `erasure.certify` of the log
holds the same sum. Who knows the id of the person or organization
finds it as SHA-256 of "stoa erasure 1 " and the id.

Check this bundle with stoa_verify.py, as README.md says: the manifest's signature and the log's
part cover these files.
"""
_COLUMNS = (
    *("id", "type", "role", "subject", "channel", "received_at", "identity", "due_on", "term"),
    *("extended_at", "extension_reason", "decision", "refusal_ground", "decided_at", "closed_at"),
    *("output", "late"),
)


def register() -> None:
    exports.register_kind(
        KIND,
        "Certificate of an erasure",
        (),
        documents=_certificate,
        about=("cert",),
        known=lambda log, id: _issued(log, id) is not None,
    )
    exports.register("subject_requests", _COLUMNS, _requests, personal=("subject",), general=False)
    exports.register_kind(
        "subject_requests", "Requests of data subjects, and their clocks", ("subject_requests",)
    )


def _issued(log: str, id: str) -> Erasure | None:
    """A certificate that this log tells of."""
    found = Erasure.objects.filter(certificate_id=id, state=State.ISSUED).first()
    return found if found and log in found.told_by else None


def _certificate(export: Export, folder: Path) -> Iterator[tuple[str, Path]]:
    erasure = _issued(export.log_id, export.about)
    if erasure is None or erasure.certificate is None:
        raise LookupError(f"no certificate {export.about}")
    parts = {
        "certificate.json": bytes(erasure.certificate),
        "certificate.sig": erasure.signature.encode(),
        "certificate.txt": _words(json.loads(bytes(erasure.certificate))).encode(),
    }
    for name, content in parts.items():
        (folder / name).write_bytes(content)
        yield f"documents/{name}", folder / name


def _words(said: dict[str, object]) -> str:
    """For people: the same, in lines."""
    lines = [f"Certificate {said['id']} of erasure {said['erasure']}", "", _README]
    for name in ("subject", "times", "verification", "backups"):
        lines.append(f"{name}: {json.dumps(said[name], sort_keys=True)}")
    for step in said["stores"]:  # type: ignore[attr-defined]
        kept = f"  kept until {step['until']}: {step['ground']}" if "ground" in step else ""
        lines.append(f"{step['store']} ({step['place']}): {step['action']} {step['rows']}{kept}")
    keys = ", ".join(said["keys_destroyed"])  # type: ignore[arg-type]
    lines += [f"keys destroyed: {keys or 'none'}", "", *(f"- {one}" for one in said["limits"])]  # type: ignore[attr-defined]
    return "\n".join(lines) + "\n"


def _requests(log: str, start: datetime, end: datetime) -> Iterable[tuple[exports.Value, ...]]:
    rows = SubjectRequest.objects.filter(log_id=log, received_at__gte=start, received_at__lt=end)
    for one in rows.order_by("id").iterator(chunk_size=500):
        closed = one.closed_at.date() if one.closed_at else None
        yield (
            *(one.id, one.type, one.role, one.subject_id, one.channel, one.received_at),
            *(one.identity, one.due_on.isoformat(), one.term),
            *(one.extended_at, one.extension_reason, one.decision, one.refusal_ground),
            *(one.decided_at, one.closed_at, one.output),
            None if closed is None else closed > one.due_on,
        )
