"""Who asks: an API key with scope `read` or `manage`, or a person signed in to the console."""

from typing import Any

from django.utils import timezone
from rest_framework.authentication import BaseAuthentication
from rest_framework.exceptions import AuthenticationFailed
from rest_framework.request import Request

from controlplane.tenancy import access, keys
from controlplane.tenancy.models import ApiKey, User

REALM = 'Bearer realm="stoa"'


class KeyHolder:
    """Stands where DRF expects a user, for a request that came with a key."""

    is_authenticated = True
    is_active = True

    def __init__(self, key: ApiKey) -> None:
        self.key = key
        self.pk = key.pk


class ApiKeyAuthentication(BaseAuthentication):
    """`Authorization: Bearer sk-stoa-…`. Absent: the session may still say who it is."""

    def authenticate(self, request: Request) -> tuple[Any, Any] | None:
        scheme, _, presented = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer":
            return None
        try:
            key = keys.authenticate_key(presented.strip(), timezone.now())
        except keys.MalformedKey as error:
            raise AuthenticationFailed(str(error), code="invalid_api_key") from error
        if key is None:
            raise AuthenticationFailed(
                "This API key is unknown, revoked or expired.", code="invalid_api_key"
            )
        return KeyHolder(key), key

    def authenticate_header(self, request: Request) -> str:
        return REALM


def principal(request: Request) -> access.Principal:
    """Who asks, in the house's terms."""
    if isinstance(request.auth, ApiKey):
        return access.principal_for_key(request.auth)
    assert isinstance(request.user, User)
    return access.principal_for_user(request.user)
