"""Who calls: the key in `Authorization`, found in the directory, good for the scope.

Only that header counts; Anthropic's clients, on the paths of that API, may send `x-api-key`
instead. Elsewhere that one is ignored, as is `api-key`; none of them ever reaches an engine.
"""

from collections.abc import Mapping
from typing import Protocol

from gateway import addresses, errors
from gateway.directory import Directory, Endpoint, Key

INFERENCE = "inference"

_SCHEME = b"bearer "
_PREFIX = b"sk-stoa-"
_LENGTH = len(_PREFIX) + 8 + 1 + 43


class Caller(Protocol):
    """Whose request it is: only a key with networks asks for the address, and only what is no
    key may be a line's pass."""

    def address(self, headers: Mapping[bytes, bytes]) -> str: ...
    def line_key(self, directory: Directory, secret: bytes, now: float) -> Key | None: ...


def authenticate(
    directory: Directory,
    headers: Mapping[bytes, bytes],
    now: float,
    caller: Caller,
    *,
    anthropic: bool = False,
) -> Key:
    """The caller's key. Raises 401 for none, an unknown or an expired one, 403 for its scope and
    for an address that is not of its networks.

    `now` is Unix seconds.
    """
    given = headers.get(b"authorization", b"")
    if given[: len(_SCHEME)].lower() == _SCHEME:
        secret = given[len(_SCHEME) :].strip()
    elif anthropic and not given and b"x-api-key" in headers:
        secret = headers[b"x-api-key"].strip()
    else:
        raise errors.key_missing()
    # A key of another shape is turned away before it costs a hash.
    if len(secret) != _LENGTH or not secret.startswith(_PREFIX):
        key = caller.line_key(directory, secret, now)
    else:
        key = directory.key(secret)
    if key is None:
        raise errors.key_unknown()
    if key.expires_at is not None and key.expires_at <= now:
        raise errors.key_expired()
    if INFERENCE not in key.scopes:
        raise errors.scope_missing(INFERENCE)
    if key.networks and not addresses.within(caller.address(headers), key.networks):
        raise errors.wrong_network()
    return key


class Asked(Protocol):
    @property
    def headers(self) -> Mapping[bytes, bytes]: ...
    @property
    def anthropic(self) -> bool: ...
    @property
    def alias(self) -> str: ...


def again(
    directory: Directory,
    asked: Asked,
    now: float,
    caller: Caller,
    endpoint: Endpoint,
    engine_model: str,
) -> Key:
    """The key of a request that waited, if it still is one and admits the endpoint still.

    Raises ApiError.
    """
    key = authenticate(directory, asked.headers, now, caller, anthropic=asked.anthropic)
    adapter = "" if engine_model == endpoint.id else engine_model
    if not (allowed(key, endpoint, adapter) or (asked.alias and asked.alias in key.models)):
        raise errors.model_not_found(endpoint.name)
    return key


def allowed(key: Key, endpoint: Endpoint, adapter: str = "") -> bool:
    """Whether the key's allow-list (empty: everything of its project) admits the model."""
    models = key.models
    if not models or endpoint.name in models or endpoint.id in models:
        return True
    return bool(adapter) and f"{endpoint.name}:{adapter}" in models


def resolve(directory: Directory, key: Key, model: str) -> tuple[Endpoint, str]:
    """The endpoint that `model` names for this key, and the engine's own name for the model.

    `model` is `name`, `name:adapter`, or either with the endpoint's id. Raises 404 alike for
    what does not exist, what belongs to somebody else and what the key may not use.
    """
    name, _, adapter = model.partition(":")
    endpoint = directory.endpoint(key.project_id, name)
    if (
        endpoint is None
        or not allowed(key, endpoint, adapter)
        or (":" in model and adapter not in endpoint.adapters)
    ):
        raise errors.model_not_found(model)
    return endpoint, adapter or endpoint.id


def behind(directory: Directory, key: Key, alias: str, target: str) -> tuple[Endpoint, str] | None:
    """An alias's target as `resolve` finds it; None where there is no such thing for this key.

    A key that may use the alias may use what is behind it.
    """
    name, colon, adapter = target.partition(":")
    endpoint = directory.endpoint(key.project_id, name)
    if endpoint is None or (colon and adapter not in endpoint.adapters):
        return None
    if alias not in key.models and not allowed(key, endpoint, adapter):
        return None
    return endpoint, adapter or endpoint.id


def resolve_at(directory: Directory, key: Key, base: str, model: str) -> tuple[Endpoint, str]:
    """The same below an endpoint's own base URL, where `model` may be all that it serves:
    its name or id, the name of its weights, an adapter with or without the endpoint before it.
    """
    endpoint = directory.endpoint(key.project_id, base)
    if endpoint is None:
        raise errors.model_not_found(base)
    if model in (endpoint.name, endpoint.id, endpoint.model):
        return resolve(directory, key, endpoint.name)
    if model in endpoint.adapters:
        return resolve(directory, key, f"{endpoint.name}:{model}")
    if model.partition(":")[0] not in (endpoint.name, endpoint.id):
        raise errors.model_not_found(model)
    return resolve(directory, key, model)
