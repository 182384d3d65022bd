"""A node says where its engine is; the gateway connects to engines' sockets and to nothing else."""

import tempfile
from pathlib import Path

import pytest

from tests.gateway.rig import Rig

CHAT = {"model": "tiny", "messages": [{"role": "user", "content": "Hello"}]}


@pytest.mark.parametrize("where", ["none", "elsewhere", "link"])
def test_a_socket_outside_the_folder_is_not_connected_to(where: str) -> None:
    with tempfile.TemporaryDirectory(prefix="gw-") as name:
        folder = Path(name)
        allowed = folder / "engines"
        allowed.mkdir()
        rig = Rig(folder, sockets=None if where == "none" else allowed)
        try:
            rig.key()
            engine = rig.engine("ep_tiny")
            if where == "link":
                (allowed / "e.sock").symlink_to(engine.socket)
                engine.socket = allowed / "e.sock"
            rig.endpoint("tiny", [engine])
            answer = rig.post("/v1/chat/completions", CHAT)
            assert answer.status == 503
            assert answer.json["error"]["code"] == "engine_unavailable"
            assert engine.seen == []
        finally:
            rig.stop()
