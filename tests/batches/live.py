"""The three processes that a batch passes through, real ones, on the test's database."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import httpx
import openai
from django.db import connection

from tests.gateway.house import eventually
from workers.local.embedded import free_port

ROOT = Path(__file__).resolve().parents[2]
START_S = 120.0


class Django:
    """The web process and runners, with the settings of this test run and `settings`."""

    def __init__(self, folder: Path, gateway_port: int, **settings: str) -> None:
        self.folder = folder
        self.port = free_port()
        url = urlsplit(os.environ["DATABASE_URL"])
        url = url._replace(path="/" + str(connection.settings_dict["NAME"]))
        self._environment = {
            **os.environ,
            "DATABASE_URL": urlunsplit(url),
            "PYTHONPATH": f"{ROOT / 'platform'}{os.pathsep}{ROOT}",
            "DJANGO_SETTINGS_MODULE": "controlplane.settings",
            "STOA_BATCH_GATEWAY_URL": f"http://127.0.0.1:{gateway_port}",
            "STOA_BATCH_LEASE_S": "3",
            **settings,
        }
        self._started: list[subprocess.Popen[bytes]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def web(self) -> "subprocess.Popen[bytes]":
        command = ["uvicorn", "controlplane.asgi:application", "--port", str(self.port)]
        process = self.start("web", *command, "--no-access-log", "--timeout-graceful-shutdown", "1")

        def answers() -> bool:
            assert process.poll() is None, self.log("web")
            try:
                return httpx.get(f"{self.url}/healthz").status_code == 200
            except httpx.TransportError:
                return False

        eventually(answers, within_s=START_S)
        return process

    def runner(self) -> "subprocess.Popen[bytes]":
        return self.start("runner", "controlplane", "run_batches")

    def runners(self, *places: str) -> "subprocess.Popen[bytes]":
        """One that dies at each place, and one that does not (tests.batches.mortal)."""
        return self.start("runners", "tests.batches.mortal", *places)

    def start(self, name: str, *module: str) -> "subprocess.Popen[bytes]":
        with (self.folder / f"{name}.log").open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", *module],
                env=self._environment,
                cwd=self.folder,
                stdout=log,
                stderr=log,
            )
        self._started.append(process)
        return process

    def log(self, name: str) -> str:
        return (self.folder / f"{name}.log").read_text()

    def stop(self) -> None:
        for process in self._started:
            if process.poll() is None:
                process.send_signal(signal.SIGKILL)
            process.wait()


def client(port: int, key: str) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key=key, max_retries=0)
