"""Everything that the gateway must know to serve: keys, endpoints, ready replicas.

A `Directory` is one consistent snapshot of schema `gateway`, for one region, in memory; a request
uses the one that was current when it arrived. `reading` makes it, `keeper` keeps it current.
"""

import hmac
import itertools
from collections.abc import Iterable

import msgspec

_PIECE = 2000  # things encoded at once: the event loop gets its turn between the pieces


class Key(msgspec.Struct, frozen=True, gc=False):
    """An API key that is not revoked; whoever asks checks `expires_at` (Unix seconds)."""

    id: str
    project_id: str
    organization_id: str
    scopes: frozenset[str]
    models: frozenset[str]  # endpoint names that it may call; empty: every endpoint
    expires_at: float | None


class Replica(msgspec.Struct, frozen=True, gc=False):
    """An engine that answered its probe: `unix:/path` or `relay:HOST:PORT`."""

    id: str
    endpoint_id: str
    address: str


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
    max_model_len: int | None  # tokens; the smallest that a ready replica reported


class Content(msgspec.Struct):
    """What goes to disk: hashes of keys, never keys.

    In pieces, each encoded by itself: one call for 100,000 keys would hold up the event loop.
    """

    region: str
    keys: list[bytes]  # each a list[tuple[bytes, Key]]
    endpoints: list[bytes]  # each a list[Endpoint]


class Directory:
    """An immutable snapshot. `read_at` is Unix seconds, `generation` rises with every change."""

    __slots__ = ("_by_id", "_by_name", "_keys", "_pepper", "_projects", "generation", "read_at")

    def __init__(
        self,
        pepper: bytes,
        keys: dict[bytes, Key],
        endpoints: Iterable[Endpoint],
        *,
        generation: int,
        read_at: float,
    ) -> None:
        self._pepper = pepper
        self._keys = keys
        self._by_id: dict[str, Endpoint] = {}
        self._by_name: dict[tuple[str, str], Endpoint] = {}
        self._projects: dict[str, list[Endpoint]] = {}
        self.generation = generation
        self.read_at = read_at
        for endpoint in endpoints:
            self._by_id[endpoint.id] = endpoint
            self._by_name[endpoint.project_id, endpoint.name] = endpoint
            self._projects.setdefault(endpoint.project_id, []).append(endpoint)

    def key(self, secret: bytes) -> Key | None:
        """The key whose whole text (`sk-stoa-…`) is `secret`."""
        return self._keys.get(hmac.digest(self._pepper, secret, "sha256"))

    def endpoint(self, project_id: str, name_or_id: str) -> Endpoint | None:
        """A project's endpoint by its name or its `ep_…` id; None for another project's."""
        found = self._by_name.get((project_id, name_or_id))
        if found is None:
            found = self._by_id.get(name_or_id)
            if found is not None and found.project_id != project_id:
                return None
        return found

    def endpoints(self, project_id: str) -> list[Endpoint]:
        """A project's endpoints, oldest first."""
        return list(self._projects.get(project_id, ()))

    def every_endpoint(self) -> list[Endpoint]:
        """All endpoints of the region: what keeps connections to replicas follows this."""
        return list(self._by_id.values())

    def encode(self, region: str) -> bytes:
        keys = _pieces(self._keys.items())
        return msgspec.msgpack.encode(Content(region, keys, _pieces(self._by_id.values())))

    @classmethod
    def decode(
        cls, payload: bytes, pepper: bytes, region: str, *, generation: int, read_at: float
    ) -> "Directory":
        """Raises ValueError when the payload is another region's or another version's."""
        try:
            content = msgspec.msgpack.decode(payload, type=Content)
            keys: dict[bytes, Key] = {}
            for piece in content.keys:
                keys.update(msgspec.msgpack.decode(piece, type=list[tuple[bytes, Key]]))
            endpoints: list[Endpoint] = []
            for piece in content.endpoints:
                endpoints += msgspec.msgpack.decode(piece, type=list[Endpoint])
        except msgspec.MsgspecError as error:
            raise ValueError(f"the directory on disk is of another version: {error}") from error
        if content.region != region:
            raise ValueError(f"the directory on disk is of region {content.region}, not {region}")
        return cls(pepper, keys, endpoints, generation=generation, read_at=read_at)


def _pieces(things: Iterable[object]) -> list[bytes]:
    rest = iter(things)
    pieces = []
    while piece := list(itertools.islice(rest, _PIECE)):
        pieces.append(msgspec.msgpack.encode(piece))
    return pieces
