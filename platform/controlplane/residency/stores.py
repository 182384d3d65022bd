"""Every store that can hold something of an organization, and every party it can be sent to.

A store names the settings that say where it is: a setting that points somewhere and belongs to no
store here fails tests/residency/test_locations.py, so that none is added without its place.
"""

from dataclasses import dataclass
from enum import StrEnum


class Place(StrEnum):
    """Whose country it has: the operator's words (`stated`), or the region's own row."""

    HOME = "home"  # with the control plane
    REGION = "region"  # in the organization's region
    ELSEWHERE = "elsewhere"  # with somebody else


class Copy(StrEnum):
    PRIMARY = "primary"
    REPLICA = "replica"
    BACKUP = "backup"
    CACHE = "cache"
    SENT = "sent"  # it leaves the installation


@dataclass(frozen=True)
class Store:
    """`content`: what of prompts and answers it has; `settings`: those that say where it is."""

    name: str
    purpose: str
    place: Place
    copy: Copy
    encrypted: str
    key_holder: str
    retention: str
    content: str = "none"
    settings: tuple[str, ...] = ()
    rules: tuple[str, ...] = ()  # of retention, whose periods are told as they hold


_MASTER = "the operator, who has key-management and STOA_MASTER_KEY"
_NOBODY = "nobody: it is not encrypted by Stoa"

STORES: dict[str, Store] = {
    one.name: one
    for one in (
        Store(
            "database",
            "tenants, keys' hashes, endpoints, usage, ledger, invoices, audit log; files and lines"
            " of batches, which a project asked to have kept",
            Place.HOME,
            Copy.PRIMARY,
            "content of files and batches, secrets and personal values of events: AES-256-GCM;"
            " other columns: as the database's disk is",
            _MASTER,
            "by the schedule of retention",
            "of files and batches alone, sealed",
            ("DATABASE_URL", "STOA_GATEWAY_DATABASE_URL", "STOA_BACKUP_DATABASE_URL"),
            ("file", "batch", "request_inbox", "inference_metadata", "meter_evidence", "voucher"),
        ),
        Store(
            "database-replica",
            "what the database has, as it streams it to its replicas",
            Place.HOME,
            Copy.REPLICA,
            "as the database",
            _MASTER,
            "as the database",
            "of files and batches alone, sealed",
        ),
        Store(
            "broker",
            "hints of what to look at: ids, which no work depends on",
            Place.HOME,
            Copy.PRIMARY,
            "no",
            _NOBODY,
            "seconds, until a worker has taken it",
            settings=("BROKER_URL",),
        ),
        Store(
            "gateway",
            "spool of usage until it is in the database, and a copy of the directory",
            Place.REGION,
            Copy.PRIMARY,
            "no: ids and figures; as the gateway's disk is",
            _NOBODY,
            "seconds; without the database until it is back",
            "in memory while a request runs",
            ("STOA_GATEWAY_DIR", "STOA_BACKUP_GATEWAYS", "STOA_GATEWAY_SOCKETS"),
        ),
        Store(
            "node",
            "engines that answer requests; weights, compile caches and engines' logs",
            Place.REGION,
            Copy.CACHE,
            "no: memory, and weights on the node's disk; between gateway and node: TLS 1.3",
            _NOBODY,
            "weights until the room is needed; the KV cache as long as its engine runs",
            "in memory: while a request runs, and as prefixes in an engine's KV cache, under a salt"
            " of the organization's",
            ("STOA_AGENT_DIR", "STOA_AGENT_RUN_DIR", "STOA_CACHE_DIR"),
        ),
        Store(
            "uploads",
            "weights that projects brought themselves",
            Place.HOME,
            Copy.PRIMARY,
            "no: as the folder's disk is",
            _NOBODY,
            "until it is deleted; unfinished as the rule says",
            settings=("STOA_UPLOADS_DIR",),
            rules=("upload",),
        ),
        Store(
            "exports",
            "signed bundles that somebody asked for",
            Place.HOME,
            Copy.PRIMARY,
            "no: as the folder's disk is",
            _NOBODY,
            "from when it was built",
            settings=("STOA_VAR_DIR",),
            rules=("export_file",),
        ),
        Store(
            "backups",
            "encrypted copies of the database, of gateways' spools and, if asked, of uploads; the"
            " journal of what no backup may bring back",
            Place.HOME,
            Copy.BACKUP,
            "age (X25519, ChaCha20-Poly1305)",
            "who has the identity of STOA_BACKUP_RECIPIENTS; not the machine that makes them",
            "STOA_BACKUP_KEEP",
            "of files and batches alone, sealed twice",
            ("STOA_BACKUP_DIR", "STOA_BACKUP_KEYS_DIR", "STOA_BACKUP_JOURNAL_DIR"),
        ),
        Store(
            "logs",
            "lines of the processes: ids, figures and errors",
            Place.HOME,
            Copy.PRIMARY,
            "no: as the host keeps its journal",
            _NOBODY,
            "as the host's journal is set",
        ),
        Store(
            "telemetry",
            "spans and metrics, where the operator has set a collector: ids, figures and times",
            Place.HOME,
            Copy.SENT,
            "in transit where its address is https",
            _NOBODY,
            "as the collector is set",
            settings=(
                "OTEL_EXPORTER_OTLP_ENDPOINT",
                "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
                "STOA_GATEWAY_METRICS_HOST",
                "STOA_AGENT_DCGM_URL",
            ),
        ),
        Store(
            "signer",
            "hashes of logs' heads, and the key that signs them",
            Place.HOME,
            Copy.PRIMARY,
            "no: mode 0700",
            "the operator, on the signer's host",
            "for good",
            settings=("STOA_SIGNER_DIR", "STOA_SIGNER_SOCKET", "STOA_BACKUP_SIGNER"),
        ),
        Store(
            "key-management",
            "the key that wraps data keys; of data keys what is to be wrapped passes through",
            Place.HOME,
            Copy.PRIMARY,
            "a file: under a passphrase; a service: as it keeps keys, in transit by TLS",
            "the operator, or who runs the service that STOA_KMS names",
            "until it is turned and nothing is wrapped by it any more",
            settings=("STOA_KMS_PATH", "STOA_KMS_URL"),
        ),
        Store(
            "mail",
            "heads of the organization's log, to addresses that it named",
            Place.ELSEWHERE,
            Copy.SENT,
            "in transit by STARTTLS",
            _NOBODY,
            "as the mail's provider and receiver keep it",
            settings=("STOA_SMTP_HOST",),
        ),
        Store(
            "log-subscription",
            "the organization's log or its heads, to addresses that it named",
            Place.ELSEWHERE,
            Copy.SENT,
            "in transit by TLS; syslog by UDP or TCP is not",
            _NOBODY,
            "as the receiver keeps it",
            settings=("STOA_LOG_INNER_HOSTS",),
        ),
        Store(
            "stripe",
            "an opaque customer's reference, amounts and seconds; the billing contact",
            Place.ELSEWHERE,
            Copy.SENT,
            "in transit by TLS",
            "Stripe",
            "as Stripe keeps it",
            settings=("STOA_STRIPE_API_BASE",),
        ),
        Store(
            "vies",
            "the VAT number of who pays, checked at the Commission's service",
            Place.ELSEWHERE,
            Copy.SENT,
            "in transit by TLS",
            _NOBODY,
            "as the service keeps it",
            settings=("STOA_VIES_URL",),
        ),
        Store(
            "model-sources",
            "names and revisions of models, asked for by nodes where endpoints name them",
            Place.ELSEWHERE,
            Copy.SENT,
            "in transit by TLS",
            _NOBODY,
            "as the source keeps its logs",
            settings=(
                *("STOA_HUB_URL", "STOA_MIRROR_URL", "STOA_S3_ENDPOINTS"),
                *("STOA_IMAGE_REGISTRIES", "HF_ENDPOINT"),
            ),
        ),
        Store(
            "containers",
            "whatever the organization's own images send to the names on its outbound list",
            Place.ELSEWHERE,
            Copy.SENT,
            "as its images do it",
            "the organization",
            "as the receiver keeps it",
            "as its images do it",
        ),
    )
}
# Settings that point somewhere and hold nothing of an organization, each with why.
NO_STORE = {
    "STOA_GATEWAY_URL": "what the console tells people to call",
    "STOA_GATEWAY_HOST": "where clients come",
    "STOA_AGENTS_HOST": "where agents come",
    "STOA_AGENTS_URL": "where agents come",
    "STOA_BATCH_GATEWAY_URL": "a gateway, which is a store",
    "STOA_GATEWAY_CONTROLPLANE_URL": "the control plane itself",
    "STOA_CONTROLPLANE_URL": "the control plane itself",
    "STOA_RECIPES_DIR": "the operator's recipes",
    "STOA_BACKUP_IDENTITY": "a private key, on the machine that restores",
    "STOA_AGENT_CONTAINERS": "the node's own container engine",
    "STOA_AGENT_RELAY": "the node itself",
    "STOA_AGENT_REACH": "places that `doctor` tries to reach: nothing is sent",
    "STOA_AGENT_KERNEL_LOG": "the node's kernel, read alone",
    "STOA_ENGINE_PYTHON": "a program on the node",
    "HTTPS_PROXY": "on the way to model sources",
    "NO_PROXY": "on the way to model sources",
    "STOA_OWNER_DATABASE_URL": "the database, as another role",
}
