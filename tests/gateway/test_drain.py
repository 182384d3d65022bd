"""SIGTERM: nothing new, what runs ends, and what does not end in time is settled."""

import asyncio
import tempfile
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path

import pytest

from gateway.limits import Limits
from tests.gateway.rig import KEY, Rig

CHAT = "/v1/chat/completions"


@pytest.fixture
def leaving() -> Iterator[Rig]:
    with tempfile.TemporaryDirectory(prefix="gw-") as folder:
        rig = Rig(Path(folder), Limits(drain_s=1.0))
        rig.key()
        rig.endpoint("tiny", [rig.engine("ep_tiny")])
        yield rig
        rig.stop()


def body(how: str) -> dict[str, object]:
    return {"model": "tiny", "messages": [], "stream": True, "user": how}


def drain(rig: Rig) -> "Future[None]":
    done = asyncio.run_coroutine_threadsafe(rig.server.drain(), rig.loop)
    rig.until(lambda: rig.server.context.draining)
    return done


def test_what_runs_ends_and_nothing_new_begins(leaving: Rig) -> None:
    with leaving.connect() as idle, leaving.connect() as busy:
        idle.get("/v1/models", key=KEY)
        assert idle.response().status == 200
        busy.post(CHAT, body("tokens=20;delay=0.02"), key=KEY)
        busy.head()
        done = drain(leaving)
        assert idle.closed
        with pytest.raises(ConnectionRefusedError):
            leaving.connect()
        rest = b""
        while chunk := busy.chunk():
            rest += chunk
        assert rest.endswith(b"data: [DONE]\n\n")
        assert busy.closed
    done.result(5)
    assert [record.finish for record in leaving.spool.closed] == ["complete"]


def test_what_does_not_end_in_time_is_cut_and_settled(leaving: Rig) -> None:
    with leaving.connect() as busy:
        busy.post(CHAT, body("tokens=9999;delay=0.05"), key=KEY)
        busy.head()
        drain(leaving).result(5)
        assert b"gateway_draining" in busy.rest()
    (record,) = leaving.spool.closed
    assert (record.finish, record.counted_by) == ("gateway_gone", "delivered")
    assert record.output_tokens > 5
    leaving.until(lambda: leaving.engines[0].seen[0].aborted)
