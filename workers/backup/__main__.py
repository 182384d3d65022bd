"""`stoa backup …`: make, list, verify, restore and drill backups.

Restoring needs nothing of the house but this package: neither settings nor a database.
"""

import argparse
import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import psycopg
from django.core.exceptions import ImproperlyConfigured
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeElapsedColumn

from workers.backup import envelope, manifest, shelf
from workers.backup.config import Config
from workers.backup.database import DatabaseError
from workers.backup.making import BackupError, Step, Told, silent, utc_now
from workers.backup.manifest import ManifestError
from workers.backup.secrets import KeysError
from workers.backup.signers import SignerError
from workers.backup.spools import SpoolError
from workers.local.embedded import ServerError
from workers.local.installation import Installation, SettingError

_WRONG = (
    *(BackupError, DatabaseError, envelope.EnvelopeError, ImproperlyConfigured, KeysError),
    *(ManifestError, OSError, ServerError, SettingError, SignerError, SpoolError),
    *(psycopg.Error, shelf.Busy),
)


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    if options.verb not in ("reopen", "identity"):
        _adopt()
    run: Callable[[argparse.Namespace], int] = options.run
    try:
        return run(options)
    except _WRONG as error:
        words = str(error).strip() or type(error).__name__
        if getattr(options, "json", False):
            print(json.dumps({"ok": False, "error": words}))
        else:
            print(f"stoa backup {options.verb}: {words}", file=sys.stderr)
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="stoa backup", description=__doc__)
    verbs = parser.add_subparsers(dest="verb", required=True)

    def verb(name: str, run: Callable[[argparse.Namespace], int], words: str) -> Any:
        one = verbs.add_parser(name, help=words, description=words)
        one.add_argument("--json", action="store_true", help="JSON instead of words and bars")
        one.set_defaults(run=run)
        return one

    verb("create", _create, "make a backup now, and remove those whose time is over")
    listed = verb("list", _list, "the backups that there are")
    listed.add_argument("--dir", type=Path, help="else STOA_BACKUP_DIR")
    check = verb("verify", _verify, "read a backup whole; with an identity, restore it for trial")
    _which(check)
    check.add_argument("--identity", type=Path, help="what opens it (else STOA_BACKUP_IDENTITY)")
    for name, run, words in (
        ("restore", _restore, "put a backup back, onto a clean folder or into an empty database"),
        ("drill", _drill, "restore a backup for trial and throw that away; say what it took"),
    ):
        one = verb(name, run, words)
        _which(one)
        _opening(one)
        if name == "restore":
            one.add_argument("--to", type=Path, required=True, help="a folder that is not there")
            one.add_argument("--database-url", default="", help="an empty one, as its owner")
    again = verb("reopen", _reopen, "what is left to do after another kind of restore")
    again.add_argument("--backup", default="other", help="what it was restored from")
    again.add_argument("--recovery-point", required=True, type=datetime.fromisoformat)
    _journal(again)
    verb("journal", _ship, "carry what no backup may bring back out of the database now")
    verb("signer", _signer, "by which key this installation's backups are signed")
    identity = verb("identity", _identity, "draw an identity; keep it elsewhere")
    identity.add_argument("--out", type=Path, required=True)
    return parser


def _which(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("id", nargs="?", default="latest", help="bak_…, or latest")
    parser.add_argument("--dir", type=Path, help="else STOA_BACKUP_DIR")
    parser.add_argument("--signer", default="", help="as `stoa backup signer` said it")


def _opening(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--identity", type=Path, help="what opens it (else STOA_BACKUP_IDENTITY)")
    parser.add_argument("--keys-file", type=Path, help="else the secrets of this environment")
    parser.add_argument("--keys-identity", type=Path)
    _journal(parser)


def _journal(parser: argparse.ArgumentParser) -> None:
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--journal", type=Path, help="else STOA_BACKUP_JOURNAL_DIR")
    which.add_argument("--without-journal", action="store_true", help="it is lost as well")


# --- what needs the house ------------------------------------------------------------------


def _create(options: argparse.Namespace) -> int:
    _set_up()
    from workers.backup import running

    config = Config.from_env()
    with _progress(options) as told:
        made = running.create(config, now=utc_now(), told=told)
        if config.identity is not None:
            running.verify(config, made.id, config.identity, now=utc_now(), told=told)
    size = sum(file.size for file in made.files)
    _say(
        options,
        {"ok": True, "id": made.id, "recovery_point": made.snapshot_at, "bytes": size},
        f"{made.id}: {size / (1 << 20):.1f} MiB, of {made.snapshot_at}",
    )
    return 0


def _reopen(options: argparse.Namespace) -> int:
    _set_up()
    from workers.backup import running

    done = running.reopen(
        backup_id=options.backup,
        recovery_point=options.recovery_point,
        journal=_journal_of(options),
        now=utc_now(),
    )
    _say(options, done, f"reopened: {json.dumps(done)}")
    return 0


def _ship(options: argparse.Namespace) -> int:
    _set_up()
    from workers.backup import running

    count = running.ship(Config.from_env(), now=utc_now())
    _say(options, {"ok": True, "shipped": count}, f"{count} tombstones went into the journal")
    return 0


# --- what needs a backup alone --------------------------------------------------------------


def _list(options: argparse.Namespace) -> int:
    found = shelf.entries(_folder(options), _own_signer())
    rows = [
        {
            "id": entry.id,
            "recovery_point": entry.manifest.snapshot_at if entry.manifest else None,
            "bytes": entry.size,
            "problem": entry.problem,
        }
        for entry in found
    ]
    lines = [
        f"{entry.id}  {entry.manifest.snapshot_at if entry.manifest else entry.problem}"
        f"  {entry.size / (1 << 20):9.1f} MiB"
        for entry in found
    ]
    _say(options, {"backups": rows}, "\n".join(lines) or "there is none")
    return 0


def _verify(options: argparse.Namespace) -> int:
    from workers.backup import restoring

    signer = options.signer or _own_signer()
    entry = shelf.find(_folder(options), options.id, signer)
    identity = options.identity or Config.from_env().identity
    with _progress(options) as told:
        if identity is None:
            assert entry.manifest is not None
            manifest.check(entry.folder, entry.manifest)
            document: dict[str, Any] = {"ok": True, "id": entry.id, "opened": False}
        else:
            source = restoring.Source(entry, envelope.identities(identity), {}, None)
            report = restoring.verified(source, now=utc_now(), told=told)
            document = {"ok": True, "id": entry.id, "opened": True, **report.document()}
    if os.environ.get("DATABASE_URL"):
        _set_up()
        from workers.backup import running

        running.note_verified(entry.id, document, now=utc_now())
    words = "restored and compared" if document["opened"] else "as it was written, not opened"
    _say(options, document | {"signed": bool(signer)}, f"{entry.id}: {words}")
    return 0


def _restore(options: argparse.Namespace) -> int:
    from workers.backup import restoring

    source = _source(options)
    with _progress(options) as told:
        if options.database_url:
            report = restoring.into_database(
                source, options.database_url, options.to, now=utc_now(), told=told
            )
        else:
            report = restoring.onto_folder(source, options.to, now=utc_now(), told=told)
    _say(options, {"ok": True, **report.document()}, _words(report.document()))
    return 0


def _drill(options: argparse.Namespace) -> int:
    from workers.backup import restoring

    source = _source(options)
    recorded = bool(os.environ.get("DATABASE_URL"))
    with _progress(options) as told:
        report = restoring.drilled(source, now=utc_now(), told=told)
    if recorded:
        _set_up()
        from workers.backup import running

        running.note_drill(report, now=utc_now())
    document = {"ok": True, "recorded": recorded, **report.document()}
    _say(options, document, _words(report.document()))
    return 0


def _signer(options: argparse.Namespace) -> int:
    signer = _own_signer()
    if not signer:
        raise ImproperlyConfigured("set STOA_MASTER_KEY or STOA_MASTER_KEY_FILE")
    _say(options, {"signer": signer}, signer)
    return 0


def _identity(options: argparse.Namespace) -> int:
    secret, recipient = envelope.new_identity()
    with open(options.out, "x", opener=envelope.private) as file:
        file.write(f"# public key: {recipient}\n{secret}\n")
    _say(options, {"recipient": recipient}, recipient)
    return 0


# --- small parts ---------------------------------------------------------------------------


def _adopt() -> None:
    """Beside `make up` on this machine its own settings hold, where none are given."""
    if os.environ.get("DATABASE_URL"):
        return
    installation = Installation.from_environment()
    if installation.postgres is not None and (installation.postgres.data / "PG_VERSION").exists():
        os.environ.setdefault("BROKER_URL", installation.broker_url())
        for name, value in installation.django_environment().items():
            os.environ.setdefault(name, value)


def _set_up() -> None:
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "controlplane.settings")
    import django

    django.setup()


def _folder(options: argparse.Namespace) -> Path:
    folder: Path | None = options.dir or Config.from_env().folder
    if folder is None:
        raise ImproperlyConfigured("say --dir, or set STOA_BACKUP_DIR")
    return folder


def _own_signer() -> str:
    from controlplane import env

    master_key = env.text("STOA_MASTER_KEY", "")
    return manifest.signer(master_key) if master_key else ""


def _journal_of(options: argparse.Namespace) -> Path | None:
    if options.without_journal:
        return None
    folder: Path | None = options.journal or Config.from_env().journal
    if folder is None or not folder.is_dir():
        raise BackupError(
            "where is the journal of what may not come back? --journal DIR; or, where it is lost as"
            " well, --without-journal"
        )
    return folder


def _source(options: argparse.Namespace) -> Any:
    from controlplane import env
    from workers.backup import restoring, secrets

    identity = options.identity or Config.from_env().identity
    if identity is None:
        raise BackupError("what opens it? --identity FILE")
    if options.keys_file is not None:
        if options.keys_identity is None:
            raise BackupError("what opens the keys? --keys-identity FILE")
        keys = restoring.keys_of(options.keys_file, options.keys_identity)
    else:
        known = {name: env.text(name) for name in secrets.NAMES if env.text(name, "")}
        if "STOA_MASTER_KEY" not in known:
            raise BackupError("--keys-file FILE, or the secrets of the house as settings")
        keys = secrets.Keys(known)
    return restoring.source(
        _folder(options),
        options.id,
        identity=identity,
        secrets=keys.secrets,
        journal=_journal_of(options),
        signer=options.signer,
        signer_state=keys.signer,
        kek=keys.kek,
    )


def _words(report: dict[str, Any]) -> str:
    phases = ", ".join(f"{name} {seconds:g} s" for name, seconds in report["phases_s"].items())
    return (
        f"{report['backup']}: {report['rows']} rows of {report['recovery_point']}\n"
        f"recovery point: {report['lost_s']:.0f} s before the restore began\n"
        f"recovery time:  {report['took_s']:g} s ({phases})\n"
        f"ended again:    {json.dumps(report['reopened'])}"
    )


def _say(options: argparse.Namespace, document: dict[str, Any], words: str) -> None:
    print(json.dumps(document) if options.json else words)


@contextmanager
def _progress(options: argparse.Namespace) -> Iterator[Told]:
    if options.json:
        yield silent
        return
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn())
    with Progress(*columns, TimeElapsedColumn(), console=Console(stderr=True)) as bars:
        tasks: dict[str, Any] = {}

        def told(step: Step) -> None:
            if step.part not in tasks:
                for task in tasks.values():
                    bars.stop_task(task)
                tasks[step.part] = bars.add_task(step.part, total=step.total_bytes or None)
            total = step.total_bytes or None
            bars.update(tasks[step.part], completed=step.done_bytes, total=total)

        yield told


if __name__ == "__main__":
    sys.exit(main())
