"""A container that no record knows ends, on a real podman; the one beside it serves on."""

from collections.abc import Iterator

import pytest

from controlplane.fleet import wire
from tests.agent.fake_runner import get, wait_until
from tests.agent.images import Site
from tests.agent.podman import Podman
from workers.agent.engines import Running
from workers.agent.events import Events
from workers.agent.reaper.reaping import Reaping
from workers.agent.reaper.things import Expected

pytestmark = pytest.mark.xdist_group("podman")


@pytest.fixture
def site(podman: Podman) -> Iterator[Site]:
    found = Site(podman)
    try:
        yield found
    finally:
        found.close()


class Known:
    def __init__(self, *running: Running) -> None:
        self._running = running

    def expected(self) -> Expected:
        return Expected(
            replicas=frozenset(one.replica_id for one in self._running),
            engines=frozenset(one.pid for one in self._running),
        )

    def used(self) -> set[int]:
        return {0}


def test_an_unknown_container_ends_beside_one_that_serves(site: Site) -> None:
    serving, orphan = site.serve(), site.serve()
    reaping = Reaping(site.settings, Events(site.settings.directory))
    try:
        reaping.first(Known(serving, orphan))
        assert Events(site.settings.directory).waiting() == []
        assert site.runner.alive(serving) and site.runner.alive(orphan)

        reaping.first(Known(serving))
        wait_until(lambda: not site.runner.alive(orphan), 30)
        assert [one.replica_id for one in site.driver.list(site.mark)] == [serving.replica_id]
        assert get(serving.socket, "/environment").status_code == 200
    finally:
        reaping.close()
    events = Events(site.settings.directory).waiting()
    ended = {event.detail["what"]: event for event in events}
    assert {"container", "process", "folder"} <= ended.keys()
    assert ended["container"].kind == wire.NodeEventKind.ORPHAN_ENDED.value
    assert ended["container"].detail["replica"] == orphan.replica_id
    assert not [event for event in events if event.detail.get("replica") == serving.replica_id]
