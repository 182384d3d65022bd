"""OCI images that replicas are started from: what may be asked for, and what nodes are told.

An image is kept with the version that names it, as `check` returns it. Nothing secret is in it:
`secrets` and `registry_secret` are names of the project's, which a node is told the values of for
one start (image_secrets).
"""

import re
from collections.abc import Mapping
from typing import Any, Protocol

from django.conf import settings

from controlplane.endpoints import sources
from controlplane.endpoints.errors import Invalid
from controlplane.endpoints.models import Endpoint, Replica
from controlplane.fleet import engines, wire
from controlplane.fleet.wire import SourceKind
from controlplane.tenancy import project_secrets
from controlplane.tenancy.models import Project

CUSTOM = "custom"  # the engine of whom the image is all there is

# As the distribution specification has them; the registry is always said, so that a name means
# the same on every node.
_HOST = r"[a-z0-9](?:[a-z0-9.-]{0,251}[a-z0-9])?(?::[0-9]{1,5})?"
_PART = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_REFERENCE = re.compile(
    rf"(?P<host>{_HOST})/(?P<path>{_PART}(?:/{_PART})*)"
    r"(?::(?P<tag>[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}))?(?:@(?P<digest>sha256:[0-9a-f]{64}))?"
)
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}")
_PATH = re.compile(r"/[A-Za-z0-9._~!$&'()*+,;=:@%/?-]{0,199}")
# The node sets these itself.
_OURS = re.compile(
    r"STOA_.*|(?:CUDA|NVIDIA)_VISIBLE_DEVICES|(?:https?|all|no)_proxy", re.IGNORECASE
)

MAX_REFERENCE = 500
MAX_WORDS = 64  # of a command, and variables
MAX_TEXT = 4096  # bytes of one word, or of a variable's value
MAX_BYTES = 32_768  # of all of them
PORTS = range(1024, 65536)  # below, nobody but root may listen
EGRESS_PORT = 3128  # where the way out is, on the container's loopback

_DEFAULTS: dict[str, Any] = {
    "reference": "",
    "command": [],
    "env": {},
    "secrets": {},
    "registry_secret": "",
    "port": 8000,
    "readiness_path": "/health",
    "openai": True,
}
FIELDS = tuple(_DEFAULTS)
_OF_ENGINES = ("reference", "env", "secrets", "registry_secret")  # the engine says the rest


class Sourced(Protocol):
    """The part of a wish that says where its model is."""

    @property
    def source(self) -> str: ...
    @property
    def revision(self) -> str: ...
    @property
    def secret(self) -> str: ...


def check(
    image: Mapping[str, Any] | None, engine: engines.Engine, node_count: int = 1
) -> dict[str, Any] | None:
    """The image in its final form. Raises Invalid, with the part that cannot be in `param`."""
    if image is None:
        if engines.Way.PROCESS not in engine.ways:
            message = f"the engine {engine.name} needs an image with a `reference`"
            raise _invalid("", message)
        return None
    if not isinstance(image, Mapping):
        raise _invalid("", f"expected an object with {', '.join(FIELDS)}")
    if engines.Way.CONTAINER not in engine.ways:
        raise _invalid("", f"the engine {engine.name} runs from no image")
    if node_count > 1:
        message = "a replica from an image stands on one node"
        raise Invalid(message, code="invalid_node_count", field="node_count")
    if unknown := image.keys() - _DEFAULTS.keys():
        message = f"an image has {', '.join(FIELDS)}; not {_shown(min(unknown))}"
        raise _invalid("", message)
    found = {**_DEFAULTS, **image}
    if engine.name != CUSTOM:
        for name in image.keys() - set(_OF_ENGINES):
            if image[name] != _DEFAULTS[name]:
                raise _invalid(name, f"the engine {engine.name} says itself what its {name} is")
    reference(found["reference"])
    _command(found["command"])
    _variables(found["env"], "env")
    _secrets(found["secrets"], found["env"])
    name = found["registry_secret"]
    if name != "" and not project_secrets.named(name):
        raise _invalid("registry_secret", "expected the name of a secret")
    port = found["port"]
    if type(port) is not int or port not in PORTS or port == EGRESS_PORT:
        most = PORTS.stop - 1
        message = f"expected a port from {PORTS.start} to {most}, and not {EGRESS_PORT}"
        raise _invalid("port", message)
    path = found["readiness_path"]
    if not isinstance(path, str) or not _PATH.fullmatch(path) or ".." in path:
        raise _invalid("readiness_path", "expected a path such as `/health`")
    if not isinstance(found["openai"], bool):
        raise _invalid("openai", "expected true or false")
    return found


def no_source(spec: Sourced) -> str:
    """The source of a model that is none: the image brings what it serves. Raises Invalid."""
    for name in ("source", "revision", "secret"):
        if getattr(spec, name) not in ("", SourceKind.HUB):
            message = f"without a model there is no {name}"
            raise Invalid(message, code=f"invalid_{name}", field=name)
    return SourceKind.HUB


def split(text: str) -> tuple[str, str]:
    """Registry and digest (or empty) of a reference that was checked."""
    found = _REFERENCE.fullmatch(text)
    assert found is not None, text
    return found["host"], found["digest"] or ""


def reference(text: Any) -> None:
    """Raises Invalid for what names no image of a registry that the operator allows."""
    found = _REFERENCE.fullmatch(text) if isinstance(text, str) else None
    if found is None or len(text) > MAX_REFERENCE:
        message = (
            "expected registry/repository:tag or registry/repository@sha256:…, "
            f"such as `registry.example/team/image:1.0`; not {_shown(text)}"
        )
        raise _invalid("reference", message)
    if not found["tag"] and not found["digest"]:
        raise _invalid("reference", "a tag or a digest is missing: say which image is meant")
    allowed = settings.IMAGE_REGISTRIES
    if found["host"] not in allowed:
        known = ", ".join(allowed) or "none"
        message = f"the operator allows these registries: {known} (STOA_IMAGE_REGISTRIES)"
        raise _invalid("reference", message, code="registry_not_allowed")


def check_access(project: Project, image: Mapping[str, Any] | None) -> None:
    """Invalid for secrets that the project has not, or that are for another registry."""
    if image is None:
        return
    for variable, name in image["secrets"].items():
        if project_secrets.find(project, project_secrets.Kind.ENV, name) is None:
            message = f"{variable}: the project has no env secret {_shown(name)}"
            raise _invalid("secrets", message, code="invalid_secret")
    name = image["registry_secret"]
    if name and project_secrets.find(project, project_secrets.Kind.REGISTRY, name) is None:
        message = f"the project has no registry secret {_shown(name)}"
        raise _invalid("registry_secret", message, code="invalid_secret")


def told(image: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """What an audit event holds of it: commands and values may be a person's words."""
    if image is None:
        return None
    kept = {name: image[name] for name in ("reference", "port", "readiness_path", "openai")}
    return {**kept, "env": sorted(image["env"]), "secrets": sorted(image["secrets"])}


def wired(image: Mapping[str, Any] | None, pins: Mapping[str, str]) -> wire.Image | None:
    """What a node is told, by digest once one has served."""
    if image is None:
        return None
    return wire.Image(
        reference=pins.get(_pin_key(image["reference"]), image["reference"]),
        command=image["command"],
        env=image["env"],
        port=image["port"],
        readiness_path=image["readiness_path"],
        openai=image["openai"],
    )


def pinned(endpoint: Endpoint) -> str:
    """The digest that replicas of its tag are started from; empty before one has served."""
    if endpoint.image is None:
        return ""
    return str(endpoint.pinned.get(_pin_key(endpoint.image["reference"]), ""))


def pin(replica_id: str, served: str) -> None:
    """A replica serves `served`: its successors are of the same digest while the tag is wished."""
    replica = Replica.objects.select_related("version").get(id=replica_id)
    image = replica.version.image
    if image is None:
        return
    wished, found = (_REFERENCE.fullmatch(one) for one in (image["reference"], served))
    if wished is None or found is None or wished["digest"] or not found["digest"]:
        return
    # The node's word is taken for the digest alone: never for whose image it is.
    pinned = f"{wished['host']}/{wished['path']}@{found['digest']}"
    sources.keep_pin(replica, _pin_key(image["reference"]), pinned)


def _pin_key(reference: str) -> str:
    return f"image {reference}"


def _command(words: Any) -> None:
    texts = isinstance(words, list) and all(isinstance(one, str) for one in words)
    if not texts or len(words) > MAX_WORDS or any(map(_unfit, words)):
        message = f"expected at most {MAX_WORDS} words of at most {MAX_TEXT} bytes each"
        raise _invalid("command", message)
    if sum(len(one.encode()) for one in words) > MAX_BYTES:
        raise _invalid("command", f"expected at most {MAX_BYTES} bytes in all")


def _variables(given: Any, field: str) -> None:
    if not isinstance(given, Mapping) or len(given) > MAX_WORDS:
        raise _invalid(field, f"expected at most {MAX_WORDS} variables with their values")
    for name, value in given.items():
        if not isinstance(name, str) or not _VARIABLE.fullmatch(name):
            raise _invalid(field, f"{_shown(name)} cannot name an environment variable")
        if _OURS.fullmatch(name):
            raise _invalid(field, f"{name} is set by the node")
        if not isinstance(value, str) or _unfit(value):
            raise _invalid(field, f"{name}: expected a text of at most {MAX_TEXT} bytes")
    if sum(len(one.encode()) for one in given.values()) > MAX_BYTES:
        raise _invalid(field, f"expected at most {MAX_BYTES} bytes in all")


def _secrets(given: Any, env: Mapping[str, str]) -> None:
    _variables(given, "secrets")
    for name, secret in given.items():
        if name in env:
            raise _invalid("secrets", f"{name} is in `env` already")
        if not project_secrets.named(secret):
            raise _invalid("secrets", f"{name}: expected the name of one of the project's secrets")


def _unfit(text: str) -> bool:
    """Whether no process could be given it: a NUL, half a surrogate pair, or too long."""
    return "\0" in text or len(text.encode(errors="surrogatepass")) > MAX_TEXT or _half(text)


def _half(text: str) -> bool:
    return any("\ud800" <= mark <= "\udfff" for mark in text)


def _shown(value: Any) -> str:
    text = str(value)[:80]
    return "".join(mark if mark.isprintable() else "?" for mark in text) or "nothing"


def _invalid(part: str, message: str, *, code: str = "invalid_image") -> Invalid:
    return Invalid(message, code=code, field=f"image.{part}" if part else "image")
