"""Endpoints, keys, runs and clients that are gone leave nothing in a gateway's memory."""

import gc
import tracemalloc
from collections.abc import Iterator

import pytest

from gateway import counting, guard, hold, runs, salts, table
from gateway.directory import Organization, Project
from gateway.metrics import GONE
from gateway.spool import Spool
from tests.gateway.rig import Rig

CHAT = "/v1/chat/completions"
CYCLES = 100
LOOKS = (60, 75, 90, 100)  # after the bounds are reached
# Whatever were kept of a cycle would be more: a name and its place in a dict are 120.
A_CYCLE_BYTES = 50
OURS = tracemalloc.Filter(True, "*/platform/gateway/*")


@pytest.fixture
def traced() -> Iterator[None]:
    tracemalloc.start()
    yield
    tracemalloc.stop()


def come_and_go(rig: Rig, number: int) -> None:
    """An organization with an endpoint and a key is made, asks in all the ways in which a request
    may end, and is gone."""
    organization, project = f"org_{number}", f"prj_{number}"
    rig.organizations[organization] = Organization(organization)
    rig.projects[project] = Project(project, organization)
    name, secret = f"e{number}", f"sk-stoa-{number:08d}-" + "x" * 43
    (engine,) = rig.engines
    engine.adapters = (f"ep_{name}",)
    rig.key(secret, project_id=project, organization_id=organization, secret_id=f"sec_{number}")
    rig.endpoint(name, [engine], project_id=project)
    rig.change(name, organization_id=organization)
    headers = {"x-stoa-run": f"run-{number}/child", "x-stoa-agent": f"agent-{number}"}
    body = {"model": name, "messages": []}
    for how, stream, status in (
        ("tokens=2", True, 200),
        ("tokens=2", False, 200),
        ("error=400", False, 400),
        ("error=503", False, 503),
    ):
        asked = {**body, "user": how, "stream": stream}
        assert rig.post(CHAT, asked, key=secret, headers=headers).status == status
    with rig.connect() as connection:
        asked = {**body, "user": "tokens=9999;delay=0.01", "stream": True}
        connection.post(CHAT, asked, key=secret, headers=headers)
        connection.head()
        connection.chunk()
    rig.until(lambda: engine.seen[-1].aborted)
    del rig.keys[secret], rig.endpoints[name]
    del rig.projects[project], rig.organizations[organization]
    rig.publish()
    assert rig.post(CHAT, body, key=secret).status == 401


def kept(rig: Rig) -> dict[str, int]:
    """Bytes that the gateway's code holds, by the line that asked for them."""
    context = rig.server.context
    # Who asked holds a directory until it has hung up, and who is gone is looked for now and then.
    rig.until(lambda: not context.clients and not context.pools.all())
    rig.until(lambda: context.metrics.endpoints() == {GONE})
    while rig.run(rig.spool.take(1000)):
        rig.run(shipped(rig.spool))
    rig.spool.opened.clear()
    rig.spool.closed.clear()
    rig.activity.events.clear()
    rig.engines[0].seen.clear()
    rig.uses.noted.clear()  # as they are told
    gc.collect()
    found = tracemalloc.take_snapshot().filter_traces([OURS]).statistics("lineno")
    return {str(one.traceback): one.size for one in found}


async def shipped(spool: Spool) -> None:
    spool.acknowledge()


@pytest.mark.trap("leaked-routes", "gateway-memory")
def test_what_is_gone_is_forgotten(rig: Rig, traced: None, monkeypatch: pytest.MonkeyPatch) -> None:
    # What is remembered for a while has a bound; it is reached before it is looked at.
    for room, bound in (
        (counting, "_RUNS_MAX"), (guard, "_KEPT"), (hold, "_KEPT"),
        (runs, "_KNOWN_MAX"), (salts, "_KEPT"),
    ):  # fmt: skip
        monkeypatch.setattr(room, bound, CYCLES // 2)
    monkeypatch.setattr(table, "_KNOWN_MAX", 2)  # of several names in a cycle
    rig.engine("ep_e0")
    before: dict[str, int] = {}
    for number in range(CYCLES):
        come_and_go(rig, number)
        # A table that is emptied and filled is larger at some times than at others.
        if number + 1 in LOOKS:
            found = kept(rig)
            before = {line: max(found.get(line, 0), before.get(line, 0)) for line in found | before}
    for number in range(CYCLES, 2 * CYCLES):
        come_and_go(rig, number)
    after = kept(rig)
    # What shrank meanwhile does not make up for what grew.
    grown = {line: max(0, size - before.get(line, 0)) for line, size in after.items()}
    most = sorted(grown.items(), key=lambda each: -each[1])[:8]
    assert sum(grown.values()) < A_CYCLE_BYTES * CYCLES, most
