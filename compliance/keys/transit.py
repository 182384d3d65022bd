"""Key-encryption keys in OpenBao's Transit engine: they never leave it.

The key there is of type aes256-gcm96 and derived: the context of a data key goes into the
derivation, so that what wraps one row's key opens no other's. Transit's own `rewrap` moves a
wrapped key to the newest version without showing it to us. The token is read from its file for
each call: whoever renews it (bao agent) writes it anew.
"""

import base64
import binascii
import ssl
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
from django.conf import settings

from compliance.keys.kms import KeyDestroyed, KmsAway, Version
from compliance.sealing import SealBroken

NAME = "transit"
TIMEOUT_S = 3.0


class TransitKms:
    """See `kms.Kms`. `name` of the key and `mount` of the engine as OpenBao has them."""

    name = NAME
    algorithm = "aes256-gcm96 (HKDF-SHA-256 derived)"

    def __init__(
        self, url: str, token_file: Path, *, key: str = "stoa", mount: str = "transit", ca: str = ""
    ) -> None:
        self._base, self._key, self._token_file = f"{url.rstrip('/')}/v1/{mount}", key, token_file
        self._tls = ssl.create_default_context(cafile=ca or None)

    @classmethod
    def from_settings(cls) -> "TransitKms":
        if not settings.KMS_URL:
            raise KmsAway("set STOA_KMS_URL, where OpenBao answers")
        return cls(
            settings.KMS_URL,
            Path(settings.KMS_TOKEN_FILE),
            key=settings.KMS_NAME,
            mount=settings.KMS_MOUNT,
            ca=settings.KMS_CA,
        )

    def create(self, now: datetime) -> bool:
        """The key with its first version; False where it is there already."""
        try:
            self.versions()
            return False
        except _Missing:
            self._call("POST", f"keys/{self._key}", {"type": "aes256-gcm96", "derived": True})
            return True

    def wrap(self, key: bytes, context: str) -> tuple[str, bytes]:
        said = {"plaintext": _b64(key), "context": _b64(context.encode())}
        return self._wrapped(self._call("POST", f"encrypt/{self._key}", said))

    def unwrap(self, kek: str, wrapped: bytes, context: str) -> bytes:
        said = {"ciphertext": wrapped.decode(), "context": _b64(context.encode())}
        found = self._call("POST", f"decrypt/{self._key}", said)
        try:
            return base64.b64decode(found["plaintext"], validate=True)
        except (KeyError, TypeError, binascii.Error):
            raise KmsAway("OpenBao's answer holds no key") from None

    def rewrap(self, kek: str, wrapped: bytes, context: str) -> tuple[str, bytes]:
        said = {"ciphertext": wrapped.decode(), "context": _b64(context.encode())}
        return self._wrapped(self._call("POST", f"rewrap/{self._key}", said))

    def versions(self) -> list[Version]:
        said = self._call("GET", f"keys/{self._key}")
        if said.get("type") != "aes256-gcm96" or not said.get("derived"):
            raise KmsAway(f"{self._key} in OpenBao is not aes256-gcm96 and derived")
        found = sorted((int(number), made) for number, made in said["keys"].items())
        least = int(said["min_decryption_version"])
        return [
            Version(self._kek(number), datetime.fromtimestamp(made, UTC))
            for number, made in found
            if number >= least
        ]

    def rotate(self, now: datetime) -> str:
        self._call("POST", f"keys/{self._key}/rotate")
        return self.versions()[-1].kek

    def retire(self, kek: str, now: datetime) -> None:
        number = int(kek.rpartition("/")[2])
        newest = int(self.versions()[-1].kek.rpartition("/")[2])
        if number >= newest:
            raise ValueError(f"{kek} is the version that wraps")
        least = {"min_decryption_version": number + 1, "min_encryption_version": number + 1}
        self._call("POST", f"keys/{self._key}/config", least)
        self._call("POST", f"keys/{self._key}/trim", {"min_available_version": number + 1})

    def _kek(self, number: int) -> str:
        return f"{NAME}/{self._key}/{number}"

    def _wrapped(self, said: dict[str, Any]) -> tuple[str, bytes]:
        try:
            wrapped = str(said["ciphertext"])
            return self._kek(int(wrapped.split(":")[1].removeprefix("v"))), wrapped.encode()
        except (KeyError, IndexError, ValueError):
            raise KmsAway("OpenBao's answer is no wrapped key") from None

    def _call(self, method: str, path: str, said: dict[str, Any] | None = None) -> dict[str, Any]:
        """The answer's data. Raises KmsAway, SealBroken, KeyDestroyed."""
        try:
            token = self._token_file.read_text().strip()
        except OSError as error:
            raise KmsAway(f"STOA_KMS_TOKEN_FILE={self._token_file}: {error.strerror}") from None
        headers = {"X-Vault-Token": token, "X-Vault-Request": "true"}
        try:
            # A connection for each call: no worker may go on with its parent's.
            with httpx.Client(trust_env=False, timeout=TIMEOUT_S, verify=self._tls) as http:
                answer = http.request(method, f"{self._base}/{path}", json=said, headers=headers)
            body = answer.json() if answer.content else {}
        except (httpx.HTTPError, ValueError) as error:
            raise KmsAway(f"OpenBao does not answer: {type(error).__name__}") from None
        if answer.is_success:
            data: dict[str, Any] = body.get("data") or {}
            return data
        if answer.status_code == 404 and method == "GET":
            raise _Missing(f"OpenBao has no key {self._key}: `stoa keys init` makes it")
        words = "; ".join(map(str, body.get("errors") or ())) if isinstance(body, dict) else ""
        if answer.status_code == 400 and "too old" in words:
            raise KeyDestroyed(f"a retired version of {self._key} in OpenBao wrapped it")
        if answer.status_code == 400 and ("authentication" in words or "ciphertext" in words):
            raise SealBroken(path)
        raise KmsAway(f"OpenBao refuses {path}: {answer.status_code} {words[:200]}")


class _Missing(KmsAway):
    """There is no key of that name yet."""


def _b64(data: bytes) -> str:
    return base64.b64encode(data).decode()
