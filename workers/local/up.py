"""`make up`: from a bare checkout to an answered and billed request, then until Ctrl-C."""

import contextlib
import fcntl
import json
import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TextIO

import httpx

from workers.local import chat, demo, embedded, processes
from workers.local.api import Api
from workers.local.installation import Installation
from workers.local.screen import Screen
from workers.local.supervisor import Supervisor, Turn


class UpError(Exception):
    """What keeps the installation from coming up, in a person's words."""


@dataclass(frozen=True)
class Prepared:
    """What `manage.py prepare` answers; secrets only when they were made just now."""

    project: str
    login: str
    password: str
    api_key: str
    enrollment_token: str
    pin: str
    pool: str


def up(installation: Installation, screen: Screen) -> None:
    began = time.monotonic()
    with _only_one(installation), _asked_to_stop() as stop:
        _check_ports(installation)
        supervisor = Supervisor(lambda text: screen.say(f"  ! {text}"))
        try:
            prepared = _start(installation, supervisor, screen)
            stop.check()
            _first_answer(installation, prepared, screen, began)
            _say_goodbye_lines(installation, screen)
            stop.wait()
        finally:
            screen.say("stopping")
            supervisor.stop()
            processes.stop_engines(installation)


def _start(installation: Installation, supervisor: Supervisor, screen: Screen) -> Prepared:
    agent_started = processes.agent_can_start_alone(installation)
    if agent_started:
        # Its standby engine warms up while everything else starts.
        supervisor.start(processes.agent(installation), Turn.FIRST)
    with screen.timed("databases"):
        for server in (installation.postgres, installation.valkey):
            if server:
                supervisor.start(server, Turn.LAST)
    with screen.timed("tables, organization, keys"):
        prepared = _prepare(installation, enrol=not agent_started)
    with screen.timed("console, gateway, worker"):
        for process in processes.services(installation):
            supervisor.start(process)
        _await_answer(f"{installation.console_url}/healthz", "the web process", installation)
        _await_answer(f"{installation.gateway_url}/healthz", "the gateway", installation)
    demo.say_missing_walls(demo.ensure_environment(screen), screen)
    if not agent_started:
        supervisor.start(
            processes.agent(installation, prepared.enrollment_token, prepared.pin), Turn.FIRST
        )
    return prepared


def _prepare(installation: Installation, *, enrol: bool) -> Prepared:
    done = subprocess.run(
        processes.manage("prepare", *(["--enrol"] if enrol else [])),
        env=installation.django_environment("stoa_owner"),
        input=json.dumps(read_run_file(installation)),
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise UpError(f"preparing the database failed:\n{done.stderr.strip()[-2000:]}")
    prepared = Prepared(**json.loads(done.stdout))
    # At once: what was shown once must not be lost if the rest fails.
    write_run_file(
        installation,
        gateway_url=installation.gateway_url,
        console_url=installation.console_url,
        agents_url=installation.agents_url,
        api_key=prepared.api_key,
        login=prepared.login,
        password=prepared.password,
    )
    return prepared


def _first_answer(
    installation: Installation, prepared: Prepared, screen: Screen, began: float
) -> None:
    api = Api(installation.console_url, prepared.api_key)
    since = datetime.now(UTC)
    model = demo.choose_model(screen)
    endpoint = demo.ensure_endpoint(api, prepared.project, model, screen)
    write_run_file(installation, endpoint=endpoint["name"])
    demo.follow_start(api, endpoint["id"], screen, since)
    answer = chat.ask(installation.gateway_url, prepared.api_key, endpoint["name"])
    screen.step(
        "first token after", time.monotonic() - began - answer.total_s + answer.first_token_s
    )
    screen.say(f'  "{chat.QUESTION}"')
    screen.say(f"  → {answer.text!r}")
    bill = demo.await_bill(api, endpoint, answer)
    screen.say(f"  {bill}")
    screen.say("stoa is up")


def _say_goodbye_lines(installation: Installation, screen: Screen) -> None:
    run = read_run_file(installation)
    body = json.dumps(
        {"model": run["endpoint"], "messages": [{"role": "user", "content": "Hello"}]}
    )
    screen.say()
    screen.say(f"console   {run['console_url']}   {run['login']}   {run['password']}")
    screen.say(f"API key   {run['api_key']}")
    screen.say(
        f"try it    curl {run['gateway_url']}/v1/chat/completions "
        f"-H 'Authorization: Bearer {run['api_key']}' "
        f"-H 'Content-Type: application/json' -d '{body}'"
    )
    screen.say(f"logs      {installation.var / 'log'}")
    screen.say("Ctrl-C stops everything, engines included")


# --- small parts ---------------------------------------------------------------------


def read_run_file(installation: Installation) -> dict[str, Any]:
    try:
        known: dict[str, Any] = json.loads(installation.run_file.read_text())
    except (OSError, ValueError):
        return {}
    return known


def write_run_file(installation: Installation, **facts: str) -> None:
    """Merge `facts` into var/run.json, mode 0600, atomically."""
    path = installation.run_file
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_suffix(".new")
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        json.dump(read_run_file(installation) | facts, file, indent=2)
    draft.rename(path)


@contextlib.contextmanager
def _only_one(installation: Installation) -> Iterator[None]:
    installation.var.mkdir(parents=True, exist_ok=True)
    with (installation.var / "up.lock").open("a+") as lock:
        if not _locked(lock):
            raise UpError(f"Stoa already runs from {installation.var} (stop that one first)")
        yield


def _locked(lock: TextIO) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _check_ports(installation: Installation) -> None:
    """Refuse early, by name. What a killed predecessor held becomes free within seconds."""
    patience_s = 10 if installation.run_file.exists() else 0
    deadline = time.monotonic() + patience_s
    while True:
        ports = installation.ports().items()
        taken = [(name, port) for name, port in ports if embedded.port_taken(port)]
        if not taken:
            return
        if time.monotonic() >= deadline:
            lines = [f"port {port} is taken: set {name} to another one" for name, port in taken]
            raise UpError("\n".join(lines))
        time.sleep(0.2)


def _await_answer(url: str, what: str, installation: Installation) -> None:
    deadline = time.monotonic() + 60
    while True:
        with contextlib.suppress(httpx.TransportError):
            if httpx.get(url, timeout=5).status_code == 200:
                return
        if time.monotonic() > deadline:
            raise UpError(f"{what} does not answer at {url}: see {installation.var / 'log'}")
        time.sleep(0.05)


class _Stop:
    """Ctrl-C or SIGTERM, as something to ask and to wait for."""

    def __init__(self) -> None:
        self._event = threading.Event()

    def request(self, *_: object) -> None:
        if not self._event.is_set():
            self._event.set()
            # Whatever is under way in the main thread ends here.
            raise KeyboardInterrupt

    def check(self) -> None:
        if self._event.is_set():
            raise KeyboardInterrupt

    def wait(self) -> None:
        while not self._event.wait(0.5):
            pass


@contextlib.contextmanager
def _asked_to_stop() -> Iterator[_Stop]:
    stop = _Stop()
    before = {number: signal.signal(number, stop.request) for number in _STOP_SIGNALS}
    try:
        yield stop
    except KeyboardInterrupt:
        pass
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


_STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)


def run_file_of(var: Path) -> dict[str, Any]:
    """What a running installation says of itself, for scripts and tests."""
    known: dict[str, Any] = json.loads((var / "run.json").read_text())
    return known
