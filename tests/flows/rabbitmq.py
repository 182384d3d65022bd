"""A RabbitMQ of our own, from Debian's package: its data, ports and name daemon are the test's."""

import os
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.flows.stoa import until
from workers.local.embedded import free_port

# Not the one in /usr/sbin: that one becomes the user `rabbitmq`, who may not write here.
SERVER = Path("/usr/lib/rabbitmq/bin/rabbitmq-server")
MISSING = f"RabbitMQ is not installed ({SERVER}): apt-get install rabbitmq-server"


def installed() -> bool:
    return SERVER.exists() and shutil.which("epmd") is not None


@contextmanager
def broker(folder: Path) -> Iterator[str]:
    """Its address; it is over, name daemon included, when this returns."""
    port, names = free_port(), free_port()
    env = {
        "PATH": os.environ["PATH"],
        "HOME": str(folder),  # the Erlang cookie is made here
        "LANG": "C.UTF-8",
        "RABBITMQ_MNESIA_BASE": str(folder / "data"),
        "RABBITMQ_LOG_BASE": str(folder / "log"),
        "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1",
        "RABBITMQ_NODE_PORT": str(port),
        "RABBITMQ_NODENAME": f"stoa{port}@localhost",
        "RABBITMQ_DIST_PORT": str(free_port()),
        "RABBITMQ_PID_FILE": str(folder / "pid"),
        "RABBITMQ_ENABLED_PLUGINS_FILE": str(folder / "plugins"),
        "RABBITMQ_CONFIG_FILE": str(folder / "none"),
        "RABBITMQ_CONF_ENV_FILE": str(folder / "none-env"),
        "ERL_EPMD_PORT": str(names),
        "ERL_EPMD_ADDRESS": "127.0.0.1",
    }
    with (folder / "out").open("wb") as output:
        server = subprocess.Popen(
            [str(SERVER)], env=env, stdin=subprocess.DEVNULL, stdout=output, stderr=output
        )
    try:
        until(lambda: _greets(port), within_s=120, what="RabbitMQ speaks AMQP")
        yield f"amqp://guest:guest@127.0.0.1:{port}//"
    finally:
        server.send_signal(signal.SIGTERM)
        server.wait(60)
        subprocess.run(["epmd", "-kill"], env=env, capture_output=True)


def _greets(port: int) -> bytes:
    """Whether it answers the protocol's first line; the port alone is open long before."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
            connection.sendall(b"AMQP\x00\x00\x09\x01")
            return connection.recv(7)
    except OSError:
        return b""
