"""`python -m tests.benchmarks.peers.node DIRECTORY SOCKETS PORT`: a node's relay alone, on the
event loop that the agent has."""

import asyncio
import json
import sys
from pathlib import Path

import uvloop

from workers.agent import credential
from workers.agent.relay import Relay


async def main(directory: Path, sockets: Path, port: int) -> None:
    identity = credential.load(directory)
    assert identity is not None
    relay = Relay(identity, json.loads(sockets.read_text()).get)
    await relay.start("127.0.0.1", port)
    await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])))
