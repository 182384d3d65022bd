"""Key-encryption keys in a file, each sealed under a key that scrypt makes of a passphrase.

For installations on one machine: processes on several need the same file. Every change writes the
whole file anew, under a lock, and renames it into place, so a kill leaves the old or the new one.
"""

import base64
import fcntl
import json
import os
import secrets
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt
from django.conf import settings

from compliance.keys.kms import KeyDestroyed, KmsAway, Version
from compliance.sealing import NONCE_BYTES, SealBroken
from compliance.stamps import stamp

NAME = "file"
FORMAT = "stoa-kek/1"
COST = 1 << 15  # scrypt's n, with r = 8: 32 MiB and about a tenth of a second, once a process
_KEY_BYTES = 32


class FileKms:
    """See `kms.Kms`. The file is read again when it was replaced."""

    name = NAME
    algorithm = "AES-256-GCM"

    def __init__(self, path: Path, passphrase: str, cost: int = COST) -> None:
        self._path, self._passphrase, self._cost = path, passphrase, cost
        self._guard = threading.Lock()
        self._seen: tuple[int, ...] = ()
        self._keys: dict[str, tuple[datetime, bytes]] = {}
        self._derived: tuple[tuple[str, int], bytes] | None = None

    @classmethod
    def from_settings(cls) -> "FileKms":
        return cls(Path(settings.KMS_FILE), settings.KMS_PASSPHRASE)

    def create(self, now: datetime) -> bool:
        """A file with a first version; False where one is there already."""
        self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with self._locked():
            if self._path.exists():
                return False
            salt = base64.b64encode(secrets.token_bytes(16)).decode()
            kdf = {"name": "scrypt", "n": self._cost, "r": 8, "p": 1, "salt": salt}
            said: dict[str, Any] = {"format": FORMAT, "kdf": kdf, "versions": []}
            self._add(said, now)
            self._write(said)
        return True

    def wrap(self, key: bytes, context: str) -> tuple[str, bytes]:
        number, (_, secret) = list(self._load().items())[-1]
        nonce = os.urandom(NONCE_BYTES)
        return f"{NAME}/{number}", nonce + AESGCM(secret).encrypt(nonce, key, context.encode())

    def unwrap(self, kek: str, wrapped: bytes, context: str) -> bytes:
        known = self._load()
        number = kek.removeprefix(f"{NAME}/")
        if number not in known:
            raise KeyDestroyed(f"the key-encryption key {kek} was retired")
        cipher = AESGCM(known[number][1])
        try:
            return cipher.decrypt(wrapped[:NONCE_BYTES], wrapped[NONCE_BYTES:], context.encode())
        except InvalidTag:
            raise SealBroken(context) from None

    def rewrap(self, kek: str, wrapped: bytes, context: str) -> tuple[str, bytes]:
        return self.wrap(self.unwrap(kek, wrapped, context), context)

    def versions(self) -> list[Version]:
        return [Version(f"{NAME}/{number}", at) for number, (at, _) in self._load().items()]

    def rotate(self, now: datetime) -> str:
        with self._locked():
            said = self._read()
            number = self._add(said, now)
            self._write(said)
        return f"{NAME}/{number}"

    def retire(self, kek: str, now: datetime) -> None:
        with self._locked():
            said = self._read()
            limit = int(kek.removeprefix(f"{NAME}/"))
            if limit >= max(int(one["number"]) for one in said["versions"]):
                raise ValueError(f"{kek} is the version that wraps")
            said["versions"] = [one for one in said["versions"] if int(one["number"]) > limit]
            self._write(said)

    # --- the file -----------------------------------------------------------------------

    def _load(self) -> dict[str, tuple[datetime, bytes]]:
        with self._guard:
            try:
                about = self._path.stat()
            except OSError as error:
                cure = "`stoa keys init` makes one, or put back the copy in the keys file"
                raise KmsAway(f"STOA_KMS_PATH={self._path}: {error.strerror}; {cure}") from None
            seen = (about.st_ino, about.st_mtime_ns, about.st_size)
            if seen != self._seen:
                said = self._read()
                self._keys = {
                    one["number"]: (
                        datetime.fromisoformat(one["created_at"]),
                        self._open(said, one),
                    )
                    for one in said["versions"]
                }
                self._seen = seen
            return self._keys

    def _read(self) -> dict[str, Any]:
        try:
            said: dict[str, Any] = json.loads(self._path.read_bytes())
            if said["format"] != FORMAT or not said["versions"]:
                raise ValueError(FORMAT)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise KmsAway(f"STOA_KMS_PATH={self._path}: {type(error).__name__}") from None
        return said

    def _write(self, said: dict[str, Any]) -> None:
        draft = self._path.with_suffix(".new")
        draft.unlink(missing_ok=True)
        with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            json.dump(said, file, indent=1)
            file.flush()
            os.fsync(file.fileno())
        draft.rename(self._path)
        folder = os.open(self._path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    def _add(self, said: dict[str, Any], now: datetime) -> str:
        last = said["versions"][-1]["number"] if said["versions"] else "0"
        one = {"number": str(int(last) + 1), "created_at": stamp(now)}
        if said["versions"]:  # the passphrase must be the file's before anything is sealed by it
            self._open(said, said["versions"][-1])
        nonce = os.urandom(NONCE_BYTES)
        secret = secrets.token_bytes(_KEY_BYTES)
        sealed = nonce + self._cipher(said).encrypt(nonce, secret, _bound(one))
        said["versions"].append({**one, "key": base64.b64encode(sealed).decode()})
        return one["number"]

    def _open(self, said: dict[str, Any], one: dict[str, str]) -> bytes:
        sealed = base64.b64decode(one["key"])
        try:
            return self._cipher(said).decrypt(
                sealed[:NONCE_BYTES], sealed[NONCE_BYTES:], _bound(one)
            )
        except InvalidTag:
            message = f"STOA_KMS_PASSPHRASE does not open {self._path}, or it was altered"
            raise KmsAway(message) from None

    def _cipher(self, said: dict[str, Any]) -> AESGCM:
        kdf = said["kdf"]
        if not self._passphrase:
            raise KmsAway("set STOA_KMS_PASSPHRASE, or STOA_KMS_PASSPHRASE_FILE")
        mark = (kdf["salt"], kdf["n"])
        if self._derived is None or self._derived[0] != mark:
            salt = base64.b64decode(kdf["salt"])
            scrypt = Scrypt(salt=salt, length=_KEY_BYTES, n=kdf["n"], r=kdf["r"], p=kdf["p"])
            self._derived = mark, scrypt.derive(self._passphrase.encode())
        return AESGCM(self._derived[1])

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """One change at a time, over all processes of this machine."""
        lock = os.open(self._path.with_suffix(".lock"), os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
        finally:
            os.close(lock)


def _bound(one: dict[str, str]) -> bytes:
    return f"{FORMAT}|{one['number']}|{one['created_at']}".encode()
