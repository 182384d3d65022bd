"""Parts of `wire`'s messages: what is wrong with a node, and what it erases at its end."""

from enum import StrEnum

import msgspec


class Severity(StrEnum):
    INFO = "info"
    WARNING = "warning"
    CRITICAL = "critical"


class Finding(msgspec.Struct, kw_only=True):
    """Something that a check of a node (workers/agent/health) holds to be wrong, now."""

    check: str  # e.g. "gpu_xid", "disk_free": what a policy names
    severity: Severity
    device: int | None = None  # the index of the device that it is about
    text: str = ""
    cure: str = ""


class Erase(msgspec.Struct, kw_only=True):
    """The node leaves the fleet: stop everything, remove what tenants left, the credential last."""

    id: str


class ErasedItem(msgspec.Struct, kw_only=True):
    """A folder, and what was in it before it was removed. `sha256` is of its listing: a line
    "path, NUL, bytes" for each file, sorted."""

    what: str  # weights | engine_caches | logs | records | sockets | credential
    path: str
    files: int = 0
    bytes: int = 0
    sha256: str = ""
    done: bool = False
    why: str = ""  # it is not done
