"""`stoa evidence demo`: a bundle of each kind, checked by the verifier alone in an empty folder.

What lies in the folder afterwards is all that an auditor needs: the bundles, the public key, and
`stoa_verify.py`. One byte of a copy is altered, to see that it is refused.
"""

import shutil
import subprocess
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from compliance import exports
from compliance.bundles import readme, stoa_verify
from compliance.bundles.kinds import Kind, owner
from compliance.log import signing
from compliance.models import AuditEvent

ALTERED = "altered.zip"
Export = Callable[[str, str, str, Path], None]  # log, kind, about, the file to write


@dataclass(frozen=True)
class Check:
    """What the verifier said of a file: exit code, its last words, and what it had to say."""

    file: str
    code: int
    expected: int
    words: str


def fill(folder: Path, logs: list[str], export: Export) -> Iterator[str]:
    """Bundles of every kind into an empty folder; a line for each, made or not."""
    shutil.copy(readme.VERIFIER, folder / "stoa_verify.py")
    (folder / "key").write_text(signing.vkey() + "\n")
    for kind in sorted(exports.KINDS.values(), key=lambda one: one.name):
        for log in logs:
            if owner(log) not in kind.of:
                continue
            about = subject(kind, log)
            if about is None:
                yield f"{kind.name} of {log}: nothing here that one could be about"
                continue
            file = f"{kind.name}-{owner(log)}.zip"
            export(log, kind.name, about, folder / file)
            yield f"{file}: {(folder / file).stat().st_size} bytes"


def subject(kind: Kind, log: str) -> str | None:
    """What a bundle of that kind may be about: empty for none in particular, None for nothing."""
    if not kind.about:
        return ""
    events = AuditEvent.objects.filter(log_id=log)
    for column in ("target_id", "actor_id"):
        for prefix in kind.about:
            named = events.filter(**{f"{column}__startswith": f"{prefix}_"}).order_by(column)
            for id in named.values_list(column, flat=True).distinct()[:100]:
                if kind.known is None or kind.known(log, id):
                    return str(id)
    return None


def alter(folder: Path) -> None:
    """One byte of one event of a copy."""
    source = next(iter(sorted(folder.glob("audit_log-*.zip"))))
    whole = bytearray(source.read_bytes())
    with zipfile.ZipFile(source) as bundle:
        events = bundle.read("log/events.jsonl")
    at = whole.index(events) + events.index(b'"id":"evt_') + 12
    whole[at] ^= 1
    (folder / ALTERED).write_bytes(whole)


def check(folder: Path, python: str) -> Iterator[Check]:
    """Each bundle by the verifier alone: no settings, no packages of ours on its path."""
    key = (folder / "key").read_text().strip()
    for bundle in sorted(folder.glob("*.zip")):
        command = [python, "-I", "stoa_verify.py", bundle.name, "--vkey", key]
        ran = subprocess.run(
            command, cwd=folder, env={}, capture_output=True, text=True, check=False
        )
        refused = bundle.name == ALTERED
        told = [line for line in ran.stdout.splitlines() if line.startswith("tampered ")]
        words = "; ".join(told) if refused else (ran.stdout + ran.stderr).strip().splitlines()[-1]
        expected = stoa_verify.TAMPERED if refused else stoa_verify.OK
        yield Check(bundle.name, ran.returncode, expected, words)
