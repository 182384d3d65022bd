"""README.md of a bundle: how to check it with one command, what that shows and what not."""

import hashlib
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compliance.bundles import stoa_verify
from compliance.stamps import stamp

if TYPE_CHECKING:
    from compliance.bundles.writer import Head

VERIFIER = Path(stoa_verify.__file__)

_WORDS = """# Stoa evidence bundle: {kind}

Records of the log `{log}`{period}, profile `{profile}`, made at {created_at} for `{requested_by}`.

## Check it

    pip install cryptography
    python3 stoa_verify.py {id}.zip --vkey '{vkey}'

Take the public key (`--vkey`) from a place that you trust, not from here: this line only shows its
form. The verifier is one file, at /verify/stoa_verify.py of the installation, with the SHA-256

    {verifier}

With `--prev FILE` it also checks that the log only grew since a checkpoint that you kept: keep
`log/checkpoint` of each bundle. `--witness FILE` does the same with one that somebody else kept.

## What is in it

    manifest.json, .sig   every file with its SHA-256, and the signature over that
    summary.pdf           one page for people
    data/*.csv            RFC 4180, UTF-8. A text that begins with = + - @ TAB or CR has a ' before
                          it, so that a spreadsheet shows it and does not run it.
    data/*.jsonl          the same rows, one canonical JSON object (RFC 8785) a line
    schemas/*.json        the columns of each (JSON Schema)
    documents/            where there are any: files as they are kept, certificates, archives
    log/                  {log_words}

## What a good check shows

It supports evidence{proved}

## What it does not show

{not_proved}
"""
_NO_LOG = "none: this bundle carries no checkpoint of the log"
_LOG = """the events in their exact bytes, the hashes of all events of the log,
                          its signed checkpoint, and, where profile and time allow, openings of
                          personal values and the proof that the checkpoint is in the log of
                          checkpoints"""


@cache
def verifier_sha256() -> str:
    return hashlib.sha256(VERIFIER.read_bytes()).hexdigest()


def words(head: "Head", log_proof: dict[str, Any] | None) -> str:
    period = " from {} to before {}".format(*map(stamp, head.period)) if head.period else ""
    proved = stoa_verify.PROVED if log_proof else stoa_verify.PROVED[:1]
    return _WORDS.format(
        kind=head.kind,
        log=head.log,
        period=period,
        profile=head.profile,
        created_at=stamp(head.created_at),
        requested_by=head.requested_by,
        id=head.id,
        vkey=head.vkey,
        verifier=verifier_sha256(),
        log_words=_LOG if log_proof else _NO_LOG,
        proved="".join(f"\n- that {one}" for one in proved),
        not_proved="\n".join(f"- {one}" for one in stoa_verify.NOT_PROVED),
    )
