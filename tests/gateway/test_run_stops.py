"""A run that is stopped ends everywhere within a second, and nothing more of it is served."""

import signal
import time
from contextlib import ExitStack
from typing import Any
from urllib.parse import quote

from billing.models import RunStop
from controlplane.tenancy.models import Project
from gateway.budgets import Run
from gateway.errors import ApiError
from gateway.stops import TTL_S, Stops
from gateway.store import Store
from tests.gateway.fake_engine import FakeEngine
from tests.gateway.house import House, Road, eventually
from tests.gateway.rig import KEY, OTHER_KEY, Rig
from tests.gateway.test_limits import Hosts, gateways
from tests.gateway.test_process import CHAT, Process, engine
from tests.gateway.wire import Connection, Response

__all__ = ["engine", "gateways"]  # fixtures

LONG = "tokens=9999;delay=0.02"


def body(how: str = LONG, **more: Any) -> dict[str, Any]:
    return {"model": "tiny", "messages": [], "stream": True, "user": how, **more}


def begin(client: Connection, run: str, **more: Any) -> None:
    client.post(CHAT, body(**more), key=KEY, headers={"x-stoa-run": run})


def command(client: Connection, run: str, verb: str = "stop", key: str = KEY) -> Response:
    client.post(f"/v1/runs/{quote(run, safe='')}/{verb}", {}, key=key)
    return client.response()


def rest(client: Connection) -> bytes:
    found = b""
    while chunk := client.chunk():
        found += chunk
    return found


def test_a_run_and_what_is_below_it_ends_and_nothing_else(tiny: Rig) -> None:
    with ExitStack() as stack:
        ours, below, other, anyone = (stack.enter_context(tiny.connect()) for _ in range(4))
        for client, run in ((ours, "plan"), (below, "plan/step"), (other, "planning")):
            begin(client, run)
        anyone.post(CHAT, body("tokens=50;delay=0.02"), key=KEY)
        for client in (ours, below, other, anyone):
            client.head()
            assert client.chunk()
        with tiny.connect() as client:
            said = command(client, "plan")
            assert said.status == 200
            assert (said.json["stopped"], said.json["aborted_here"]) == (True, 2)
            # There is no PostgreSQL here: what could not be told is said.
            assert said.json["told_everywhere"] is False and "PostgreSQL" in said.json["warning"]
        for client in (ours, below):
            assert b'"code":"run_stopped"' in rest(client)
        seen = tiny.engines[0].seen
        tiny.until(lambda: sum(one.aborted for one in seen) == 2)  # the engine stops, too
        stopped = [one for one in tiny.closed(2) if one.finish == "run_stopped"]
        assert len(stopped) == 2
        # What was delivered is charged, and nothing else.
        assert all(one.counted_by == "delivered" and one.output_tokens for one in stopped)
        assert rest(anyone).endswith(b"data: [DONE]\n\n")
        assert other.chunk()


def test_a_stopped_run_is_refused_until_it_is_resumed(tiny: Rig) -> None:
    with tiny.connect() as client:
        command(client, "night")
        for run in ("night", "night/one"):
            begin(client, run)
            refused = client.response()
            assert (refused.status, refused.error["code"]) == (403, "run_stopped")
            assert refused.headers["x-should-retry"] == "false"
        begin(client, "day", how="tokens=2")
        assert client.response().status == 200
        assert command(client, "night", "resume").json["stopped"] is False
        begin(client, "night/one", how="tokens=2")
        assert client.response().status == 200


def test_what_waits_and_what_answers_in_one_piece_ends_with_an_error(tiny: Rig) -> None:
    with tiny.connect() as busy, tiny.connect() as client:
        begin(busy, "whole", stream=False)
        tiny.until(lambda: len(tiny.engines[0].seen) == 1)
        command(client, "whole")
        reply = busy.response()
        assert (reply.status, reply.error["code"]) == (403, "run_stopped")
        begin(busy, "another", how="tokens=2")  # the connection lives on
        assert busy.response().status == 200


def test_a_run_may_be_named_by_its_reference_but_not_anothers(tiny: Rig) -> None:
    with tiny.connect() as busy, tiny.connect() as client:
        begin(busy, "mine")
        _, headers = busy.head()
        ref = headers["x-stoa-run-id"]
        for name in ("mine", ref):
            theirs = command(client, name, key=OTHER_KEY)
            assert (theirs.status, theirs.json["aborted_here"]) == (200, 0)
        begin(client, "mine", how="tokens=2")
        assert client.response().status == 200
        assert command(client, ref).json == {**command(client, "mine").json, "aborted_here": 1}


def test_the_paths_of_runs_are_checked(tiny: Rig) -> None:
    with tiny.connect() as client:
        client.get("/v1/runs/x/stop", key=KEY)
        assert client.response().status == 405
        for path, status in (("x/pause", 404), ("/stop", 404), ("a%20b/stop", 400)):
            client.post(f"/v1/runs/{path}", {}, key=KEY)
            assert client.response().status == status
        client.post("/v1/runs/a/b/stop", {}, key=None)
        assert client.response().status == 401


def test_the_last_word_counts_for_a_day() -> None:
    now = [1000.0]
    stops = Stops(Store("postgresql://nowhere"), "gw", clock=lambda: now[0])
    run = Run(("run_a", "run_b"))

    def stopped() -> bool:
        try:
            stops.check("prj", run)
        except ApiError:
            return True
        return False

    stops.heard("prj run_a 7 1000.5 t")
    assert stopped()
    stops.heard("prj run_a 6 1000.1 f")  # it was overtaken
    stops.heard("prj_other run_b 8 1000.1 t")
    stops.heard("what?")
    assert stopped()
    stops.heard("prj run_a 9 1001 f")
    assert not stopped()
    assert stops.stop("prj", "run_b") == 0
    assert stopped()
    now[0] += TTL_S + 1
    assert not stopped()


def test_a_stop_is_heard_by_every_worker_of_every_host(
    engine: FakeEngine, gateways: Hosts, road: Road
) -> None:
    gateways.start()
    with ExitStack() as stack:
        clients = [
            stack.enter_context(Connection(gateway.port)) for gateway in gateways for _ in range(6)
        ]
        for client in clients:
            begin(client, "research/one")
            client.head()
            assert client.chunk()
        with Connection(gateways[0].port) as client:
            asked = time.monotonic()
            said = command(client, "research")
            assert said.json["told_everywhere"] is True
            assert said.json["aborted_here"] < len(clients)
        for client in clients:
            assert b'"code":"run_stopped"' in rest(client)
        assert time.monotonic() - asked < 1.0
        eventually(lambda: all(one.aborted for one in engine.seen))
    for gateway in gateways:
        for _ in range(8):  # whichever worker gets it
            with Connection(gateway.port) as client:
                begin(client, "research/two")
                assert client.response().error["code"] == "run_stopped"
    row = RunStop.objects.get()
    assert (row.run, row.stopped, row.gateway_id) == (said.json["id"], True, "gw-0")
    # Who starts later knows it too.
    gateways[1].end(signal.SIGTERM)
    gateways[1].start()
    with Connection(gateways[1].port) as client:
        begin(client, "research")
        assert client.response().error["code"] == "run_stopped"
        assert command(client, "research", "resume").status == 200
    with Connection(gateways[0].port) as client:

        def served() -> bool:
            begin(client, "research", how="tokens=2")
            return client.response().status == 200

        eventually(served)


def test_the_brake_stops_a_run_everywhere(house: House, gateways: Hosts) -> None:
    house.project.run_policy = {"repeats": {"stop": 3}}
    house.project.save()
    gateways.start()

    def stopped(gateway: Process) -> bool:
        with Connection(gateway.port) as client:
            begin(client, "loop", how="tokens=1")
            return client.response().status == 403

    assert not stopped(gateways[0])
    eventually(lambda: stopped(gateways[0]))
    eventually(lambda: stopped(gateways[1]))
    eventually(lambda: RunStop.objects.filter(stopped=True).exists())  # told after the answer
    # The policy may change while they serve.
    Project.objects.update(run_policy=None)

    def goes_on() -> bool:
        with Connection(gateways[1].port) as client:
            assert command(client, "loop", "resume").json["told_everywhere"] is True
        return not any(stopped(gateways[n % 2]) for n in range(8))

    eventually(goes_on)


def test_a_stop_without_postgresql_is_told_later(gateways: Hosts, road: Road) -> None:
    gateways.start()
    road.cut()
    with Connection(gateways[0].port) as client:
        said = command(client, "blind")
        assert said.json["told_everywhere"] is False
        begin(client, "blind")
        assert client.response().error["code"] == "run_stopped"
    road.mend()
    eventually(RunStop.objects.exists)

    def everywhere() -> bool:
        with Connection(gateways[1].port) as client:
            begin(client, "blind", how="tokens=2")
            return client.response().status == 403

    eventually(everywhere)
