"""Logs in memory and bundles of them, made by the real writer and signed with a real key.

Trees are computed here as RFC 6962 defines them, recursively: the verifier's are iterative.
"""

import base64
import hashlib
import json
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any

import rfc8785
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from compliance.bundles import log_part, stoa_verify, tables, writer
from compliance.bundles.log_part import Opening
from compliance.stamps import stamp

START = datetime(2026, 3, 1, tzinfo=UTC)
HOST = "stoa.example.eu"
LOG = "org_00000000000000000000000000"
ORIGIN = f"{HOST}/audit/t/{LOG}"
CERTIFICATE = "cer_00000000000000000000000001"


class Key:
    """A note key with a name, from a seed."""

    def __init__(self, seed: int = 1, name: str = HOST) -> None:
        self.private = Ed25519PrivateKey.from_private_bytes(seed.to_bytes(32, "big"))
        self.name = name
        public = b"\1" + self.private.public_key().public_bytes_raw()
        self.id = hashlib.sha256(name.encode() + b"\n" + public).digest()[:4]
        self.vkey = f"{name}+{self.id.hex()}+{base64.b64encode(public).decode()}"

    def sign(self, text: str) -> str:
        signed = self.id + self.private.sign(text.encode())
        return f"{text}\n— {self.name} {base64.b64encode(signed).decode()}\n"

    def manifest(self, kind: str, sha256: str, log: str) -> str:
        return self.sign(f"{HOST}/audit/t/{log}/bundle\n{kind}\n{sha256}\n")


def leaf(body: bytes) -> bytes:
    return hashlib.sha256(b"\0" + body).digest()


def root(leaves: Sequence[bytes]) -> bytes:
    """MTH of RFC 6962, 2.1, over leaf hashes."""
    if not leaves:
        return hashlib.sha256(b"").digest()
    if len(leaves) == 1:
        return leaves[0]
    half = 1 << ((len(leaves) - 1).bit_length() - 1)
    return hashlib.sha256(b"\1" + root(leaves[:half]) + root(leaves[half:])).digest()


def path(index: int, leaves: Sequence[bytes]) -> list[bytes]:
    """PATH of RFC 6962, 2.1.1."""
    if len(leaves) < 2:
        return []
    half = 1 << ((len(leaves) - 1).bit_length() - 1)
    if index < half:
        return [*path(index, leaves[:half]), root(leaves[half:])]
    return [*path(index - half, leaves[half:]), root(leaves[:half])]


def event(index: int, **more: Any) -> bytes:
    """A body as compliance.audit writes it; every third says whose address it came from."""
    secret = commitment(index) if index % 3 == 0 else None
    body: dict[str, Any] = {
        "v": 1,
        "id": f"evt_{index:026}",
        "log": LOG,
        "ts": stamp(START + timedelta(seconds=90 * index)),
        "action": "api_key.create",
        "category": "iam",
        "outcome": {"result": "success"},
        "actor": {"type": "user", "id": "usr_ada", "auth": {"method": "session"}},
        "target": [{"type": "api_key", "id": f"key_{index}"}],
        "d": [secret] if secret else [],
    }
    return rfc8785.dumps(body | more)


def commitment(index: int, value: str = "") -> str:
    opened = rfc8785.dumps([f"salt{index:018}", "request.ip", value or f"192.0.2.{index % 250}"])
    return base64.urlsafe_b64encode(hashlib.sha256(opened).digest()).rstrip(b"=").decode()


def opening(index: int) -> Opening:
    return Opening(
        index, f"evt_{index:026}", "request.ip", f"salt{index:018}", f"192.0.2.{index % 250}"
    )


@dataclass(frozen=True)
class MemoryLog:
    """A log as of one checkpoint (log_part.View)."""

    bodies: tuple[bytes, ...]
    key: Key = field(default_factory=Key)
    origin: str = ORIGIN
    with_meta: bool = True

    @property
    def size(self) -> int:
        return len(self.bodies)

    @property
    def leaves(self) -> list[bytes]:
        return [leaf(body) for body in self.bodies]

    @property
    def root(self) -> bytes:
        return root(self.leaves)

    @property
    def note(self) -> str:
        return self.key.sign(checkpoint_text(self.origin, self.size, self.root))

    def hashes(self, start: int, end: int) -> Iterator[bytes]:
        yield b"".join(self.leaves[start:end])

    def subtree(self, start: int, end: int) -> bytes:
        return root(self.leaves[start:end])

    def events(self, start: int, end: int) -> Iterator[bytes]:
        yield from self.bodies[start:end]

    def meta(self) -> dict[str, Any] | None:
        if not self.with_meta:
            return None
        salt = b"0123456789abcdef"
        blinded = hashlib.sha256(salt + self.note.encode()).digest()
        body = rfc8785.dumps({"c": base64.urlsafe_b64encode(blinded).rstrip(b"=").decode()})
        others = [leaf(b"%d" % n) for n in range(11)]
        leaves = [*others[:6], leaf(body), *others[6:]]
        text = checkpoint_text(f"{HOST}/audit/meta", len(leaves), root(leaves))
        return {
            "checkpoint": self.key.sign(text),
            "index": 6,
            "leaf": body.decode(),
            "proof": [base64.b64encode(one).decode() for one in path(6, leaves)],
            "salt": base64.b64encode(salt).decode(),
        }


def checkpoint_text(origin: str, size: int, root_: bytes) -> str:
    return f"{origin}\n{size}\n{base64.b64encode(root_).decode()}\n"


@cache
def bodies(count: int) -> tuple[bytes, ...]:
    """Every third with an address, of which the sixth event's is erased by the last but one."""
    found = [event(index) for index in range(count)]
    found[-2] = event(
        count - 2,
        action="erasure.complete",
        d=[],
        target=[{"type": "certificate", "id": CERTIFICATE}],
    )
    found[-1] = event(count - 1, d=[], change=[{"path": "name", "from": 'a "b" \\c', "to": "ü\n"}])
    return tuple(found)


def openings(first: int, count: int, size: int) -> list[Opening]:
    found = [opening(n) for n in range(first, first + count) if n % 3 == 0 and n < size - 2]
    gone: dict[str, Any] = {
        "redacted": "GDPR-17",
        "certificate": CERTIFICATE,
        "commitment": commitment(6),
    }
    return [replace(one, **gone) if one.index == 6 else one for one in found]


def make(target: Path, log: MemoryLog, **more: Any) -> Path:
    """A bundle of `log`: the events first..first+count, all openings, one table."""
    size = log.size
    first, count = more.get("first", 0), more.get("count", size)
    head = writer.Head(
        kind="records",
        id="exp_1",
        log=LOG,
        origin=ORIGIN,
        vkey=log.key.vkey,
        created_at=START + timedelta(seconds=90 * size),
        requested_by="usr_ada",
        profile=more.get("profile", writer.FULL),
        period=(START + timedelta(seconds=90 * first + 1), START + timedelta(seconds=90 * size)),
    )
    certified = [(size - 2, log.bodies[size - 2])] if not more.get("uncertified") else []
    with tempfile.TemporaryDirectory(dir=target.parent) as drafts:
        folder = Path(drafts)
        rows = [(f"key_{n}", "=1+1", n) for n in range(3)]
        parts = tables.write("keys", ("id", "name", "uses"), rows, folder)
        logged, proof = log_part.write(
            log,
            first,
            count,
            folder,
            openings=more.get("openings", openings(first, count, size)),
            certificates=certified,
            most_hashes=more.get("most_hashes", 1000),
        )
        writer.write(
            head, [*parts, *logged], target, log.key.manifest, folder=folder, log_proof=proof
        )
    return target


Change = Callable[[dict[str, bytes]], None]


def forge(source: Path, target: Path, change: Change, key: Key | None = None) -> Path:
    """The bundle with its files changed, packed anew.

    With a key the forger has the manifest signed again: what is wrong is then deeper.
    """
    with zipfile.ZipFile(source) as bundle:
        files = {name: bundle.read(name) for name in bundle.namelist()}
    change(files)
    manifest = json.loads(files["manifest.json"])
    if key:
        rows = {one["path"]: one.get("rows") for one in manifest["files"]}
        manifest["files"] = [
            {
                "path": name,
                "size": len(files[name]),
                "sha256": hashlib.sha256(files[name]).hexdigest(),
            }
            | ({"rows": files[name].count(b"\n")} if rows.get(name) is not None else {})
            for name in sorted(files)
            if not name.startswith("manifest")
        ]
        files["manifest.json"] = rfc8785.dumps(manifest)
        digest = hashlib.sha256(files["manifest.json"]).hexdigest()
        files["manifest.sig"] = key.manifest(manifest["kind"], digest, LOG).encode()
    pack(target, files)
    return target


def pack(target: Path, files: dict[str, bytes]) -> None:
    heads = ["manifest.json", "manifest.sig"]
    names = [*(name for name in heads if name in files), *sorted(set(files) - set(heads))]
    with tempfile.TemporaryDirectory() as folder:
        parts = [writer.text(name, files[name], Path(folder)) for name in names]
        writer._pack(parts, target)


def check(bundle: Path, *keys: Key, **more: Any) -> stoa_verify.Report:
    vkeys = [stoa_verify.Vkey.parse(key.vkey) for key in keys or (Key(),)]
    return stoa_verify.verify(bundle, stoa_verify.Options(vkeys, **more))
