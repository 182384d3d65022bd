"""What the control plane would say of a source, said by a test."""

import ssl
from collections.abc import Callable

from controlplane.fleet import wire
from workers.agent.weights.cache import Cache, Snapshot
from workers.agent.weights.errors import Unreachable
from workers.agent.weights.weights import Weights, Wish

HUB = wire.SourceKind.HUB


class FakeDoor:
    """`sources`: replica id to what is known of its model."""

    def __init__(self) -> None:
        self.sources: dict[str, wire.Source] = {}
        self.asked = 0

    def source(self, request: wire.SourceRequest, cancelled: Callable[[], bool]) -> wire.Source:
        self.asked += 1
        if request.replica_id not in self.sources:
            raise Unreachable("the control plane is away")
        return self.sources[request.replica_id]

    def secrets(self, request: wire.SecretsRequest, cancelled: Callable[[], bool]) -> wire.Secrets:
        raise AssertionError(request)

    def signed(self, path: str) -> tuple[str, dict[str, str], ssl.SSLContext]:
        raise AssertionError(path)


class Node:
    """Weights of a node, with the clock in the test's hand."""

    def __init__(self, cache: Cache) -> None:
        self.door, self.now = FakeDoor(), 1e9
        self.weights = Weights(cache, self.door, clock=lambda: self.now)
        self.told: list[tuple[int, int]] = []

    def fetch(
        self,
        source: wire.Source,
        *,
        holder: str = "",
        cancelled: Callable[[], bool] = lambda: False,
    ) -> Snapshot:
        self.door.sources["rep"] = source
        request = wire.SourceRequest(replica_id="rep")
        wish = Wish(source.kind, source.model, source.revision, request, holder)
        return self.weights.fetch(wish, self._progress, cancelled)

    def _progress(self, text: str, done: int = 0, total: int = 0) -> None:
        self.told.append((done, total))


def hub_source(
    url: str, model: str, *, project_id: str = "prj_a", revision: str = "", token: str = ""
) -> wire.Source:
    return wire.Source(
        kind=HUB, url=url, model=model, project_id=project_id, revision=revision, token=token
    )
