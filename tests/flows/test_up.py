"""`make up` itself: refused in one line, gone without a trace, and back with nothing lost."""

import os
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.flows.conftest import OVER
from tests.flows.stoa import DOWN_S, Stoa, until

pytestmark = [pytest.mark.engine, pytest.mark.xdist_group("flows")]


@pytest.fixture
def taken() -> Iterator[int]:
    """A port of 127.0.0.1 that somebody else listens on."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def refusal(stoa: Stoa, process: subprocess.Popen[bytes]) -> str:
    """What it says as it refuses to start: one line, and no trace of where in the code."""
    assert process.wait(60) == 1, stoa.screen
    said = stoa.screen
    assert "Traceback" not in said
    assert len(said.splitlines()) == 1, said
    return said


@pytest.mark.parametrize(
    "setting", ["STOA_WEB_PORT", "STOA_AGENTS_PORT", "STOA_POSTGRES_PORT", "STOA_VALKEY_PORT"]
)
def test_a_port_that_is_taken(tmp_path: Path, taken: int, setting: str) -> None:
    stoa = Stoa(tmp_path / "var", **{setting: str(taken)})
    said = refusal(stoa, stoa.start())
    assert f"port {taken} is taken" in said
    assert setting in said
    assert stoa.leftovers() == {}


def test_a_port_that_is_none(tmp_path: Path) -> None:
    stoa = Stoa(tmp_path / "var", STOA_WEB_PORT="http")
    assert "STOA_WEB_PORT=http" in refusal(stoa, stoa.start())


def test_a_second_one_in_the_same_place(stoa: Stoa, tmp_path: Path) -> None:
    again = Stoa(stoa.var)
    again.output = tmp_path / "again.out"
    said = refusal(again, again.start())
    assert f"already runs from {stoa.var}" in said
    assert stoa.api.endpoint("hello")["status"] == "ready"


def test_ctrl_c_and_up_again_lose_nothing(stoa: Stoa) -> None:
    run = stoa.run
    hello = stoa.api.endpoint("hello")
    booked = [row for row in stoa.api.usage(endpoint=hello["id"]) if row["request"]]
    before = {replica["id"] for replica in stoa.api.replicas(hello["id"])}
    stoa.down()  # which proves that no process is left
    stoa.up()
    assert stoa.run == run
    again = stoa.api.endpoint("hello")
    assert (again["id"], again["status"]) == (hello["id"], "ready")
    after = [row for row in stoa.api.usage(endpoint=hello["id"]) if row["request"]]
    assert booked
    assert [row for row in after if row in booked] == booked
    # One replica came after the other: no start failed on the way.
    new = [r for r in stoa.api.replicas(hello["id"]) if r["id"] not in before]
    assert [r["state"] for r in new] == ["ready"]
    old = [r for r in stoa.api.replicas(hello["id"]) if r["id"] in before]
    assert {r["state"] for r in old} <= set(OVER)
    assert stoa.engines() == [new[0]["id"]]


def test_a_killed_one_takes_everything_with_it(stoa: Stoa) -> None:
    """Nobody watches any more, so nothing may go on; the next one is none the worse for it."""
    process, run = stoa.process, stoa.run
    assert process is not None
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    until(lambda: not stoa.leftovers(), within_s=DOWN_S, what=f"{stoa.leftovers()} are gone")
    stoa.process = None
    stoa.up()
    assert stoa.run == run
    reply = httpx.get(f"{run['gateway_url']}/v1/models", headers=bearer(run["api_key"]))
    assert reply.status_code == 200


def bearer(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"}
