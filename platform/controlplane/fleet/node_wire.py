"""Parts of `wire`'s messages: what is wrong with a node, what it erases, which agent it runs, what
its engines printed and what the models that it brought are like."""

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


class AgentRelease(msgspec.Struct, kw_only=True):
    """The agent that the node should run: `GET /agent/v1/bundle/SHA256` is it. What an attempt
    could not bring about is not tried again in that attempt."""

    sha256: str
    version: str
    attempt: int = 1


class AgentState(msgspec.Struct, kw_only=True):
    """Of an agent that can bring itself to another release: what it runs, and which release it
    tried and left again, and why."""

    sha256: str
    failed: str = ""
    attempt: int = 0
    why: str = ""


class Revoked(msgspec.Struct, kw_only=True):
    """Certificates of that name issued until `issued_until` (Unix seconds) are worth nothing."""

    kind: str  # "node" | "gateway"
    id: str
    issued_until: float


class EngineReport(msgspec.Struct, kw_only=True):
    """What the engine printed while it started; None where it did not say. Bytes are of one device,
    the fullest."""

    version: str = ""
    weights_bytes: int | None = None
    kv_cache_bytes: int | None = None
    kv_cache_tokens: int | None = None
    max_concurrency: float | None = None
    max_num_seqs: int | None = None
    max_model_len: int | None = None
    activations_bytes: int | None = None  # at the peak of its profiling run
    non_torch_bytes: int | None = None
    graphs_bytes: int | None = None
    consumed_bytes: int | None = None  # weights, and what is not torch's


class ModelFacts(msgspec.Struct, kw_only=True):
    """What the files of a model say of its size, read where they were brought. Which model that is,
    the wish says that it was brought for: a replica of this node, or a pull."""

    replica_id: str = ""
    pull_id: str = ""
    revision: str = ""
    config: str = ""  # its config.json; empty: it has none, or one that is too long
    tensors: dict[str, int] = {}  # bytes by group (placement.memory.safetensors.summed); empty: ?
    public: bool = False  # anybody may have it from its source
