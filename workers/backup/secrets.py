"""What the database is sealed under, and what else must be the same after a restore.

These go into a file of their own, to other recipients, in another place. The database's passwords
are not among them: a restored installation draws new ones.
"""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import rfc8785

from controlplane import env

FORMAT = "stoa-backup-keys/1"
# Setting -> the file of an embedded installation that holds it, where it has one.
NAMES = {
    "STOA_SECRET_KEY": "secret_key",
    "STOA_KEY_PEPPER": "key_pepper",
    "STOA_MASTER_KEY": "master_key",
    "STOA_SECRETS_KEYS": "",
    "STOA_KMS_PASSPHRASE": "kms_passphrase",
}
KEK = "kek.json"  # the key-encryption key's file, which the passphrase opens
# Other settings are of use to whoever sets the house up again; what opens something is not.
_NEVER = ("TOKEN", "PASSWORD", "SECRET", "KEY", "PEPPER", "DATABASE_URL", "IDENTITY")


class KeysError(Exception):
    """A keys file is not what it should be; the message holds nothing secret."""


@dataclass(frozen=True)
class Keys:
    """Setting to secret; the signer's state (`signers.copied`) and the file of the key-encryption
    key, where they were copied."""

    secrets: dict[str, str]
    signer: dict[str, Any] | None = None
    kek: str = ""


def collected(
    backup_id: str,
    environ: Mapping[str, str] = os.environ,
    *,
    signer: Mapping[str, Any] | None = None,
    kek: str = "",
) -> bytes:
    """Of this process's settings. Raises ImproperlyConfigured."""
    found = {name: env.text(name, "") for name in NAMES}
    settings = {
        name: value
        for name, value in sorted(environ.items())
        if name.startswith("STOA_") and not any(word in name for word in _NEVER)
    }
    said: dict[str, Any] = {
        "format": FORMAT,
        "backup": backup_id,
        "secrets": {name: value for name, value in found.items() if value},
        "settings": settings,
    }
    more = {"signer": signer, "kek": kek}
    return rfc8785.dumps(said | {name: value for name, value in more.items() if value})


def read(data: bytes) -> Keys:
    """Raises KeysError."""
    try:
        said: dict[str, Any] = json.loads(data)
        secrets: dict[str, str] = said["secrets"]
        if said["format"] != FORMAT or "STOA_MASTER_KEY" not in secrets:
            raise KeysError("it is no keys file of this version")
    except (ValueError, KeyError, TypeError) as error:
        raise KeysError(f"it is no keys file ({type(error).__name__})") from None
    found = {name: secrets[name] for name in NAMES if name in secrets}
    return Keys(found, said.get("signer"), str(said.get("kek", "")))


def install(folder: Path, secrets: Mapping[str, str], kek: str = "") -> None:
    """As an embedded installation has them; one that has no file there is left to the operator."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    files = {NAMES[name] or name.lower(): value for name, value in secrets.items()}
    for name, value in (files | ({KEK: kek} if kek else {})).items():
        path = folder / name
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(value)
