"""The salt of an organization's prefix cache: what keeps one tenant from timing another's.

Derived from the pepper, so every gateway sends an engine the same one, it survives restarts,
nobody outside can guess it, and nothing has to be stored.
"""

import base64
import hmac

_KEPT = 10_000


class Salts:
    def __init__(self, pepper: bytes) -> None:
        self._key = hmac.digest(pepper, b"stoa gateway cache salt v1", "sha256")
        self._known: dict[str, str] = {}

    def of(self, organization_id: str) -> str:
        """43 characters of base64url: an engine's prefix cache must be able to hold them."""
        salt = self._known.get(organization_id)
        if salt is None:
            digest = hmac.digest(self._key, organization_id.encode(), "sha256")
            salt = base64.urlsafe_b64encode(digest).rstrip(b"=").decode()
            if len(self._known) >= _KEPT:
                self._known.clear()
            self._known[organization_id] = salt
        return salt
