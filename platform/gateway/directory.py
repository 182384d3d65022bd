"""Everything that the gateway must know to serve: keys, endpoints, ready replicas.

A `Directory` is one consistent snapshot of schema `gateway`, for one region, in memory; a request
uses the one that was current when it arrived. `reading` makes it, `keeper` keeps it current.
"""

import copy
import hmac
import itertools
from collections.abc import Iterable, Iterator, Mapping
from typing import TypeVar

import msgspec

from billing.rating import PriceVersion
from gateway.brake import DEFAULT, RunPolicy
from gateway.budgets import Budget, Budgets
from gateway.keyring import Keyring
from gateway.prices import PriceList

T = TypeVar("T")

_PIECE = 500  # things encoded at once: the event loop gets its turn between the pieces


class RateLimits(msgspec.Struct, frozen=True, gc=False):
    """What passes in a minute, and at once; None: as much as comes."""

    requests_per_minute: int | None = None
    input_tokens_per_minute: int | None = None
    output_tokens_per_minute: int | None = None
    concurrency: int | None = None


UNLIMITED = RateLimits()


class Organization(msgspec.Struct, frozen=True, gc=False):
    id: str
    rate_limits: RateLimits = UNLIMITED


class Alias(msgspec.Struct, frozen=True, gc=False):
    """Another name for a project's endpoints: `endpoint` or `endpoint:adapter`, in order."""

    targets: tuple[str, ...]
    fallback_on: frozenset[str] = frozenset()  # what passes on: no_capacity, context_overflow


class Project(msgspec.Struct, frozen=True):
    id: str
    organization_id: str
    rate_limits: RateLimits = UNLIMITED
    aliases: dict[str, Alias] = {}
    run_policy: RunPolicy = DEFAULT


class Key(msgspec.Struct, frozen=True, gc=False):
    """An API key that is not revoked, as found by one of its secrets.

    Whoever asks checks `expires_at` (Unix seconds): the key's or the secret's, what ends first.
    """

    id: str
    project_id: str
    organization_id: str
    scopes: frozenset[str]
    models: frozenset[str]  # endpoint names that it may call; empty: every endpoint
    expires_at: float | None
    rate_limits: RateLimits = UNLIMITED
    priority: int = 0  # of its requests in a queue: higher goes first
    networks: tuple[str, ...] = ()  # CIDR, where its requests may come from; empty: anywhere
    secret_id: str = ""


class Replica(msgspec.Struct, frozen=True, gc=False):
    """An engine that answered its probe: `unix:/path` or `relay:HOST:PORT`."""

    id: str
    endpoint_id: str
    address: str
    kv_tokens: int | None = None  # its cache holds so many; None: it did not say
    max_num_seqs: int | None = None  # it runs so many sequences beside each other
    adapters: frozenset[str] = frozenset()  # those of the endpoint that it has loaded
    failed_adapters: frozenset[str] = frozenset()  # … and that it could not load
    window: int | None = None  # tokens of a request with its answer; None: it did not say


class Rollout(msgspec.Struct, frozen=True, gc=False):
    """One version of an endpoint takes over from another."""

    id: str
    version: int
    old_version: int
    share: float | None = None  # percent of traffic that the new one gets; None: not set
    replica_ids: frozenset[str] = frozenset()  # the ready ones of the new version


class Endpoint(msgspec.Struct, frozen=True, gc=False):
    id: str
    project_id: str
    organization_id: str
    region: str
    name: str
    model: str
    adapters: frozenset[str]
    stopped: bool
    created: int  # Unix seconds
    replicas: tuple[Replica, ...]  # the ready ones, by id
    max_model_len: int | None  # tokens: the largest window of a ready replica
    device_kind: str = ""  # decides which prices apply
    shared: bool = False  # the operator's, billed by the token; else one organization's
    start_s: float | None = None  # the median of its last starts; None: there was none
    queue_limit: int | None = None  # requests that may wait for it; None: the gateway's setting
    queue_s: float | None = None  # for so long at most; None: the gateway's setting
    rollout: Rollout | None = None  # that is under way
    ttft_target_s: float = 1.0  # prompts that take longer to prefill ask for another replica
    uneven: bool = False  # the windows of its replicas differ (windows.py)
    openai: bool = True  # else it is an image with an API of its own (raw.py)


class StoppedRun(msgspec.Struct, frozen=True, gc=False):
    """The last word about a run: it was stopped, or resumed. The highest `id` is the newest."""

    project_id: str
    run: str  # its reference
    id: int
    at: float  # Unix seconds
    stopped: bool


class Content(msgspec.Struct):
    """What goes to disk: hashes of keys, never keys.

    In pieces, each encoded by itself: one call for 100,000 keys would hold up the event loop.
    """

    region: str
    keys: list[bytes]  # each a list[tuple[bytes, Key]]
    endpoints: list[bytes]  # each a list[Endpoint]
    projects: list[bytes]  # each a list[Project]
    organizations: list[bytes]  # each a list[Organization]
    budgets: list[bytes]  # each a list[Budget]
    prices: list[bytes]  # each a list[PriceVersion], of tokens
    stopped_runs: list[bytes]  # each a list[StoppedRun]
    revoked: dict[str, float] = {}  # as Directory has it


class Directory:
    """A snapshot that stays as it is. `read_at` is Unix seconds, `generation` rises each time."""

    __slots__ = (
        "_by_id", "_by_name", "_endpoints", "_organizations", "_pepper", "_projects",
        "_shared", "bounds", "budgets", "generation", "keys", "prices", "read_at", "revoked",
        "snapshot", "stopped_runs",
    )  # fmt: skip

    def __init__(
        self,
        pepper: bytes,
        keys: Mapping[bytes, Key],
        endpoints: Iterable[Endpoint],
        *,
        projects: Iterable[Project] = (),
        organizations: Iterable[Organization] = (),
        budgets: Iterable[Budget] = (),
        prices: Iterable[PriceVersion] = (),
        stopped_runs: Iterable[StoppedRun] = (),
        revoked: Mapping[str, float] | None = None,
        generation: int,
        read_at: float,
    ) -> None:
        self._pepper = pepper
        self.keys = keys if isinstance(keys, Keyring) else Keyring(keys.items())
        self.snapshot = ""  # PostgreSQL's name for it; empty: not read, but loaded or made up
        self._by_id: dict[str, Endpoint] = {}
        self._shared: dict[str, Endpoint] = {}  # by name
        self._by_name: dict[tuple[str, str], Endpoint] = {}
        self._endpoints: dict[str, list[Endpoint]] = {}  # by project
        self._projects = {project.id: project for project in projects}
        self._organizations = {one.id: one for one in organizations}
        self.budgets = Budgets(budgets)
        self.bounds = object()  # the same one as long as all that bounds requests, but keys, is
        self.prices = PriceList(prices)
        self.stopped_runs = tuple(stopped_runs)
        # Nodes (nodes.name), and until when what was issued to them counts no more: Unix seconds.
        self.revoked = dict(revoked or {})
        self.generation = generation
        self.read_at = read_at
        for endpoint in endpoints:
            self._by_id[endpoint.id] = endpoint
            if endpoint.shared:
                self._shared[endpoint.name] = endpoint
            self._by_name[endpoint.project_id, endpoint.name] = endpoint
            self._endpoints.setdefault(endpoint.project_id, []).append(endpoint)

    def key(self, secret: bytes) -> Key | None:
        """The key whose whole text (`sk-stoa-…`) is `secret`."""
        return self.keys.find(hmac.digest(self._pepper, secret, "sha256"))

    def project(self, project_id: str) -> Project | None:
        """A key's project is there: one snapshot holds both."""
        return self._projects.get(project_id)

    def alias(self, project_id: str, name: str) -> Alias | None:
        project = self._projects.get(project_id)
        return project.aliases.get(name) if project is not None else None

    @property
    def projects(self) -> Mapping[str, Project]:
        return self._projects

    @property
    def organizations(self) -> Mapping[str, Organization]:
        return self._organizations

    def organization(self, organization_id: str) -> Organization | None:
        """A key's organization is there: one snapshot holds both."""
        return self._organizations.get(organization_id)

    def endpoint(self, project_id: str, name_or_id: str) -> Endpoint | None:
        """A project's endpoint by its name or its `ep_…` id, or a shared one; None for another
        project's. What a project calls by a name is its own first."""
        found = self._by_name.get((project_id, name_or_id)) or self._shared.get(name_or_id)
        if found is None:
            found = self._by_id.get(name_or_id)
            if found is not None and found.project_id != project_id and not found.shared:
                return None
        return found

    def has(self, endpoint_id: str) -> bool:
        return endpoint_id in self._by_id

    @property
    def sizes(self) -> tuple[int, int, int]:
        """How many keys, endpoints and ready replicas there are."""
        ready = sum(len(endpoint.replicas) for endpoint in self._by_id.values())
        return len(self.keys), len(self._by_id), ready

    def endpoints(self, project_id: str) -> list[Endpoint]:
        """What a project may call: its own endpoints, and the shared ones that none of its own
        hides. Oldest first."""
        own = self._endpoints.get(project_id, [])
        names = {endpoint.name for endpoint in own}
        return own + [one for one in self._shared.values() if one.name not in names]

    def every_endpoint(self) -> list[Endpoint]:
        """All endpoints of the region: what keeps connections to replicas follows this."""
        return list(self._by_id.values())

    def with_keys(
        self, keys: Keyring[Key], generation: int, read_at: float, snapshot: str
    ) -> "Directory":
        """The same with other keys."""
        made = copy.copy(self)
        made.keys, made.generation, made.read_at = keys, generation, read_at
        made.snapshot = snapshot
        return made

    def keep_bounds(self, before: "Directory") -> None:
        """`before` has the same organizations, projects and budgets: what was looked up in them
        holds on."""
        self._organizations, self._projects = before._organizations, before._projects
        self.budgets, self.bounds = before.budgets, before.bounds

    def encode(self, region: str) -> bytes:
        content = Content(
            region,
            self.keys.encode(),
            _pieces(self._by_id.values()),
            _pieces(self._projects.values()),
            _pieces(self._organizations.values()),
            _pieces(self.budgets.all),
            _pieces(self.prices.versions),
            _pieces(self.stopped_runs),
            self.revoked,
        )
        return msgspec.msgpack.encode(content)

    @classmethod
    def decode(
        cls, payload: bytes, pepper: bytes, region: str, *, generation: int, read_at: float
    ) -> "Directory":
        """Raises ValueError when the payload is another region's or another version's."""
        try:
            content = msgspec.msgpack.decode(payload, type=Content)
            if content.region != region:
                where = f"region {content.region}, not {region}"
                raise ValueError(f"the directory on disk is of {where}")
            return cls(
                pepper,
                Keyring(_whole(content.keys, tuple[bytes, Key])),
                _whole(content.endpoints, Endpoint),
                projects=_whole(content.projects, Project),
                organizations=_whole(content.organizations, Organization),
                budgets=_whole(content.budgets, Budget),
                prices=_whole(content.prices, PriceVersion),
                stopped_runs=_whole(content.stopped_runs, StoppedRun),
                revoked=content.revoked,
                generation=generation,
                read_at=read_at,
            )
        except msgspec.MsgspecError as error:
            raise ValueError(f"the directory on disk is of another version: {error}") from error


def _pieces(things: Iterable[object]) -> list[bytes]:
    rest = iter(things)
    pieces = []
    while piece := list(itertools.islice(rest, _PIECE)):
        pieces.append(msgspec.msgpack.encode(piece))
    return pieces


def _whole(pieces: Iterable[bytes], kind: type[T]) -> Iterator[T]:
    decoder = msgspec.msgpack.Decoder(list[kind])  # type: ignore[valid-type]
    for piece in pieces:
        yield from decoder.decode(piece)
