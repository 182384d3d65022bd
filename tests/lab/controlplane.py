"""`python -m tests.lab.controlplane ADDRESS`: PostgreSQL, Valkey, web, the agents' door, a worker.

As `make up` starts them, on a host without gateway or node.

STOA_VAR_DIR/run.json holds what a person is told, `gateway.json` what a gateway has to know. The
database listens on ADDRESS too, for gateways of other hosts.
"""

import asyncio
import contextlib
import json
import subprocess
import sys
from pathlib import Path

from workers.local import processes
from workers.local.installation import Installation
from workers.local.supervisor import Supervisor, Turn

DATABASE_PORT = 5432
PARTS = ("web", "agents", "worker")


def main(address: str) -> None:
    installation = Installation.from_environment()
    assert installation.postgres is not None and installation.valkey is not None
    supervisor = Supervisor(lambda text: print(text, flush=True))
    for server in (installation.postgres, installation.valkey):
        supervisor.start(server, Turn.LAST)
    told = prepare(installation)
    for process in processes.services(installation):
        if process.name in PARTS:
            supervisor.start(process)
    told |= {"console_url": installation.console_url, "agents_url": f"https://{address}:8443"}
    write(installation.var / "gateway.json", installation.gateway_environment())
    write(installation.var / "django.json", installation.django_environment())
    write(installation.var / "run.json", told)
    asyncio.run(forward(address, installation.postgres.port))


def prepare(installation: Installation) -> dict[str, str]:
    done = subprocess.run(
        processes.manage("prepare"),
        env=installation.django_environment("stoa_owner"),
        input="{}",
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    answer: dict[str, str] = json.loads(done.stdout)
    return answer


def write(path: Path, content: dict[str, str]) -> None:
    draft = path.with_suffix(".new")
    draft.touch(mode=0o600)
    draft.write_text(json.dumps(content))
    draft.rename(path)


async def forward(address: str, port: int) -> None:
    """Connections to ADDRESS go on to the database on loopback."""

    async def pipe(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(1 << 16):
                writer.write(data)
                await writer.drain()
        writer.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there = await asyncio.open_connection("127.0.0.1", port)
        await asyncio.gather(pipe(reader, there[1]), pipe(there[0], writer))

    server = await asyncio.start_server(serve, address, DATABASE_PORT)
    await server.serve_forever()


if __name__ == "__main__":
    main(sys.argv[1])
