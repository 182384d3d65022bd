"""Write a bundle: parts in, one deterministic ZIP out. Pure: no Django, no network of its own.

The same parts, head and key give the same bytes. Entries are stored, not compressed, with one
fixed time; the verifier makes their headers anew and compares them. Rows go through files, never
through memory.
"""

import hashlib
import os
import shutil
import zipfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Protocol

import rfc8785

from compliance.bundles import readme, stoa_verify, summary
from compliance.stamps import stamp

FORMAT = stoa_verify.FORMAT
FULL, PSEUDONYMISED, COUNTS_ONLY = "full", "pseudonymised", "counts-only"
PROFILES = (FULL, PSEUDONYMISED, COUNTS_ONLY)
DISCLAIMERS = (
    "This bundle supports evidence of what was recorded. It is no legal assessment.",
    *(f"It does not show {one}." for one in stoa_verify.NOT_PROVED),
)
_EPOCH = (1980, 1, 1, 0, 0, 0)  # the first moment that a ZIP can name
_CHUNK = 1 << 20


class Sign(Protocol):
    """`compliance.log.signing.manifest`: the signed note over a manifest."""

    def __call__(self, kind: str, sha256: str, log: str) -> str: ...


@dataclass(frozen=True)
class Head:
    """What a bundle is. `origin`: of its log; `vkey`: of the key that `sign` signs with."""

    kind: str
    id: str
    log: str
    origin: str
    vkey: str
    created_at: datetime
    requested_by: str
    profile: str = FULL
    period: tuple[datetime, datetime] | None = None
    about: str = ""


@dataclass(frozen=True)
class Part:
    """A file of the bundle and where its content lies until it is packed."""

    path: str
    source: Path
    rows: int | None = None

    def entry(self) -> dict[str, Any]:
        with self.source.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        said = {"path": self.path, "size": self.source.stat().st_size, "sha256": digest}
        return said if self.rows is None else said | {"rows": self.rows}


def text(path: str, content: bytes, folder: Path) -> Part:
    """A part with this content, which is put into `folder`."""
    source = folder / path.replace("/", "-")
    source.write_bytes(content)
    return Part(path, source)


def write(
    head: Head,
    parts: Iterable[Part],
    target: Path,
    sign: Sign,
    *,
    folder: Path,
    log_proof: dict[str, Any] | None = None,
    facts: Sequence[tuple[str, str]] = (),
) -> str:
    """The bundle at `target`, which must not be there; returns its manifest's SHA-256.

    `folder` holds drafts; `facts` are further lines of the summary; `log_proof` is what
    `log_part.write` gave. README.md, summary.pdf and the verifier's sum come by themselves.
    """
    files = list(parts)
    told = [(part.path, part.rows) for part in files if part.rows is not None]
    files.append(text("README.md", readme.words(head, log_proof).encode(), folder))
    page = summary.render(head, sorted(told), log_proof, facts)
    files.append(text("summary.pdf", page, folder))
    files.sort(key=lambda part: part.path)
    manifest: dict[str, Any] = {
        "format": FORMAT,
        "kind": head.kind,
        "id": head.id,
        "log": head.log,
        "origin": head.origin,
        "vkey": head.vkey,
        "created_at": stamp(head.created_at),
        "requested_by": head.requested_by,
        "profile": head.profile,
        "generator": "stoa/1",
        "verifier_sha256": readme.verifier_sha256(),
        "disclaimers": list(DISCLAIMERS),
        "files": [part.entry() for part in files],
    }
    if head.period:
        manifest["period"] = dict(zip(("start", "end"), map(stamp, head.period), strict=True))
    if head.about:
        manifest["about"] = head.about
    if log_proof:
        manifest["log_proof"] = log_proof
    said = rfc8785.dumps(manifest)
    digest = hashlib.sha256(said).hexdigest()
    note = sign(head.kind, digest, head.log).encode()
    signed = [text("manifest.json", said, folder), text("manifest.sig", note, folder)]
    _pack([*signed, *files], target)
    return digest


def _pack(parts: Iterable[Part], target: Path) -> None:
    with open(target, "xb", opener=_private) as whole, zipfile.ZipFile(whole, "w") as bundle:
        for part in parts:
            entry = zipfile.ZipInfo(part.path, _EPOCH)
            entry.create_system = 3  # the same on every system
            entry.external_attr = 0o100644 << 16
            large = part.source.stat().st_size > zipfile.ZIP64_LIMIT
            stored = bundle.open(entry, "w", force_zip64=large)
            with stored, part.source.open("rb") as source:
                shutil.copyfileobj(source, stored, _CHUNK)
        bundle.close()
        whole.flush()
        os.fsync(whole.fileno())


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)
