"""What the operator set for backups. Read from the environment; needs no other setting."""

import os
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from django.core.exceptions import ImproperlyConfigured

from controlplane import env
from workers.backup import envelope, retention

DEFAULT_KEEP = "hourly=24,daily=7,weekly=5,monthly=12"
DEFAULT_RULES = retention.Rules.of(DEFAULT_KEEP)


@dataclass(frozen=True)
class Config:
    """`folder` None: backups are off."""

    folder: Path | None
    recipients: tuple[str, ...] = ()
    keys_folder: Path | None = None
    keys_recipients: tuple[str, ...] = ()
    every_h: float = 24.0
    keep: retention.Rules = DEFAULT_RULES
    database_url: str = ""
    gateways: tuple[Path, ...] = ()
    uploads: bool = False
    signer: Path | None = None  # the folder of its key and memory
    kek: Path | None = None  # the file of the key-encryption key, unless a KMS keeps it
    journal: Path | None = None
    identity: Path | None = None  # on a machine that may read backups, to verify them

    @classmethod
    def from_env(cls) -> "Config":
        """Raises ImproperlyConfigured, with the setting's name."""
        folder = _folder("STOA_BACKUP_DIR")
        config = cls(
            folder=folder,
            recipients=tuple(env.words("STOA_BACKUP_RECIPIENTS")),
            keys_folder=_folder("STOA_BACKUP_KEYS_DIR"),
            keys_recipients=tuple(env.words("STOA_BACKUP_KEYS_RECIPIENTS")),
            every_h=env.seconds("STOA_BACKUP_EVERY_H", 24.0),
            keep=_rules(os.environ.get("STOA_BACKUP_KEEP") or DEFAULT_KEEP),
            database_url=env.text("STOA_BACKUP_DATABASE_URL", os.environ.get("DATABASE_URL", "")),
            gateways=tuple(Path(word) for word in env.words("STOA_BACKUP_GATEWAYS")),
            uploads=env.flag("STOA_BACKUP_UPLOADS", default=False),
            signer=_folder("STOA_BACKUP_SIGNER"),
            kek=_kek(),
            journal=_folder("STOA_BACKUP_JOURNAL_DIR") or (folder / "journal" if folder else None),
            identity=_folder("STOA_BACKUP_IDENTITY"),
        )
        config._check()
        return config

    def _check(self) -> None:
        if self.every_h <= 0:
            raise ImproperlyConfigured("STOA_BACKUP_EVERY_H: expected more than 0 hours")
        for name, recipients in (
            ("STOA_BACKUP_RECIPIENTS", self.recipients),
            ("STOA_BACKUP_KEYS_RECIPIENTS", self.keys_recipients),
        ):
            for recipient in recipients:
                try:
                    envelope.recipient(recipient)
                except envelope.EnvelopeError as error:
                    raise ImproperlyConfigured(f"{name}: {error}") from error
        if self.folder is None:
            return
        if not self.recipients:
            raise ImproperlyConfigured(
                "STOA_BACKUP_RECIPIENTS: name to whom backups are encrypted, as"
                " `stoa backup identity` says it"
            )
        if self.keys_folder is not None:
            _apart(self.folder, self.keys_folder)
            if not self.keys_recipients or set(self.keys_recipients) & set(self.recipients):
                raise ImproperlyConfigured(
                    "STOA_BACKUP_KEYS_RECIPIENTS: keys go to others than STOA_BACKUP_RECIPIENTS,"
                    " or one stolen identity would open both"
                )


def kept_for() -> timedelta:
    """How old a backup can become, while new ones are made. Raises ImproperlyConfigured."""
    return _rules(os.environ.get("STOA_BACKUP_KEEP") or DEFAULT_KEEP).longest


def _folder(name: str) -> Path | None:
    value = os.environ.get(name, "")
    return Path(value).absolute() if value else None


def _kek() -> Path | None:
    if os.environ.get("STOA_KMS", "file") != "file":
        return None
    var = Path(os.environ.get("STOA_VAR_DIR") or "var").absolute()
    path = _folder("STOA_KMS_PATH") or var / "secrets" / "kek.json"
    return path if path.exists() else None


def _rules(text: str) -> retention.Rules:
    try:
        return retention.Rules.of(text)
    except ValueError as error:
        raise ImproperlyConfigured(f"STOA_BACKUP_KEEP: {error}") from error


def _apart(data: Path, keys: Path) -> None:
    data, keys = data.resolve(), keys.resolve()
    if data == keys or data in keys.parents or keys in data.parents:
        raise ImproperlyConfigured(
            f"STOA_BACKUP_KEYS_DIR={keys}: keys are kept in another place than STOA_BACKUP_DIR"
        )
