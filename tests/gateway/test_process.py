"""The gateway as a process of its own, PostgreSQL behind it: usage arrives once, come what may."""

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from django.db import connection

from billing.models import UsageInbox
from controlplane.endpoints.models import Activity
from controlplane.tenancy.models import ApiKey
from tests.gateway.fake_engine import CACHED_TOKENS, PROMPT_TOKENS, FakeEngine
from tests.gateway.house import NOW, PEPPER, REGION, Beat, House, Road, eventually, role_url
from tests.gateway.wire import Connection
from workers.local.embedded import free_port

KEY = "sk-stoa-abcdefgh-" + "k" * 43
CHAT = "/v1/chat/completions"
START_S = 60.0


class Process:
    """`python -m gateway` with a folder that stays when it is killed."""

    def __init__(self, folder: Path, database_port: int, **settings: str) -> None:
        self.folder = folder
        self.port = free_port()
        self._environ = {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
            "STOA_GATEWAY_DATABASE_URL": role_url(port=database_port),
            "STOA_KEY_PEPPER": PEPPER.decode(),
            "STOA_GATEWAY_DIR": str(folder),
            "STOA_GATEWAY_SOCKETS": "/tmp",
            "STOA_GATEWAY_PORT": str(self.port),
            "STOA_GATEWAY_ID": "gw-process",
            "STOA_GATEWAY_ACTIVITY_EVERY_S": "0.3",
            "STOA_REGION": REGION,
            **settings,
        }
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "gateway"], env=self._environ, stdout=log, stderr=log
            )
        eventually(self._answers, within_s=START_S)

    def _answers(self) -> bool:
        assert self.process is not None and self.process.poll() is None, self.log
        return self._listens()

    def _listens(self) -> bool:
        try:
            Connection(self.port).close()
        except ConnectionRefusedError:
            return False
        except ConnectionResetError:
            return True  # it is just closing
        return True

    def end(self, how: signal.Signals) -> int:
        assert self.process is not None
        self.process.send_signal(how)
        try:
            code = self.process.wait(START_S)
            eventually(lambda: not self._listens())  # its workers end with it, in their time
            return code
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise AssertionError(f"it does not end: {self.log}") from None
        finally:
            self.process = None

    @property
    def log(self) -> str:
        return (self.folder / "log").read_text()


@pytest.fixture
def engine(beat: Beat, house: House) -> Iterator[FakeEngine]:
    # A short path: the name of a unix socket has 107 characters at most.
    with tempfile.TemporaryDirectory(prefix="gw-") as folder:
        endpoint = house.endpoint("tiny")
        engine = FakeEngine(Path(folder) / "engine", endpoint.id)
        beat.run(engine.start())
        house.key(KEY)
        house.replica(endpoint, engine.address)
        yield engine
        beat.run(engine.stop())


@pytest.fixture
def gateway(engine: FakeEngine, road: Road, tmp_path: Path) -> Iterator[Process]:
    process = Process(tmp_path, road.port)
    process.start()
    yield process
    if process.process is not None:
        process.end(signal.SIGKILL)


def chat(gateway: Process, how: str = "", *, status: int = 200) -> None:
    body = {"model": "tiny", "messages": [{"role": "user", "content": "hi"}], "user": how}
    with Connection(gateway.port) as client:
        client.post(CHAT, body, key=KEY)
        assert client.response().status == status


def test_a_request_is_answered_and_its_usage_arrives_once(gateway: Process) -> None:
    chat(gateway, "tokens=12;delay=0.3;times=20/100")
    eventually(UsageInbox.objects.exists)
    assert gateway.end(signal.SIGTERM) == 0
    row = UsageInbox.objects.get()
    assert (row.gateway_id, row.status, row.finish) == ("gw-process", 200, "complete")
    counted = (row.input_tokens, row.cached_tokens, row.output_tokens)
    assert counted == (PROMPT_TOKENS, CACHED_TOKENS, 12)
    assert row.decode_us == 100_000  # as its engine says
    assert row.first_us is not None and row.first_us >= 200_000
    assert Activity.objects.filter(gateway_id="gw-process").exists()
    assert list((gateway.folder / "spool").iterdir()) == []
    assert KEY not in gateway.log


def test_the_log_has_a_line_and_no_core_is_left(gateway: Process) -> None:
    chat(gateway)
    eventually(lambda: '"operation":"chat.completions","status":200' in gateway.log)
    assert gateway.process is not None
    master = gateway.process.pid
    children = Path(f"/proc/{master}/task/{master}/children").read_text().split()
    for pid in (master, *children):
        limits = Path(f"/proc/{pid}/limits").read_text().splitlines()
        (core,) = (line.split()[-3:-1] for line in limits if line.startswith("Max core file size"))
        assert core == ["1", "1"]


def test_a_revoked_key_is_refused_within_a_second(gateway: Process) -> None:
    chat(gateway)
    ApiKey.objects.update(revoked_at=NOW)
    began = time.monotonic()

    def refused() -> bool:
        with Connection(gateway.port) as client:
            client.get("/v1/models", key=KEY)
            return client.response().status == 401

    eventually(refused)
    assert time.monotonic() - began < 1.0


def test_a_killed_gateway_loses_and_doubles_nothing(gateway: Process, road: Road) -> None:
    road.cut()  # so that usage is in the spool alone
    for _ in range(5):
        chat(gateway)
    with Connection(gateway.port) as client:
        how = "tokens=100;delay=0.05"
        body = {"model": "tiny", "messages": [], "stream": True, "user": how}
        client.post(CHAT, body, key=KEY)
        delivered = 0
        while delivered < 40:
            client.read_until(b"data: ")
            delivered += 1
        gateway.end(signal.SIGKILL)
    assert not UsageInbox.objects.exists()
    gateway.start()  # PostgreSQL is still away: it serves from its disk
    chat(gateway)
    assert "serving from the directory on disk" in gateway.log
    road.mend()
    eventually(lambda: UsageInbox.objects.count() == 7)
    finishes = sorted(UsageInbox.objects.values_list("finish", flat=True))
    assert finishes == [*["complete"] * 6, "gateway_gone"]
    gone = UsageInbox.objects.get(finish="gateway_gone")
    # Never more than was delivered, and at most a second of it (20 tokens, and some air) less.
    assert delivered - 25 <= gone.output_tokens <= delivered
    assert (gone.counted_by, gone.status) == ("delivered", 200)
    assert gateway.end(signal.SIGTERM) == 0
    assert UsageInbox.objects.count() == 7
    assert list((gateway.folder / "spool").iterdir()) == []


def test_a_waiting_request_is_heard_of_and_served(
    house: House, engine: FakeEngine, gateway: Process
) -> None:
    sleeping = house.endpoint("sleeping")
    with Connection(gateway.port) as client:
        body = {"model": "sleeping", "messages": []}
        eventually(lambda: b"sleeping" in _models(gateway))
        client.post(CHAT, body, key=KEY)
        eventually(lambda: Activity.objects.filter(endpoint_id=sleeping.id, waiting=1).exists())
        engine.adapters = (sleeping.id,)
        house.replica(sleeping, engine.address)
        assert client.response().status == 200
    eventually(lambda: UsageInbox.objects.filter(endpoint_id=sleeping.id).exists())


def _models(gateway: Process) -> bytes:
    with Connection(gateway.port) as client:
        client.get("/v1/models", key=KEY)
        return client.response().body


def test_a_missing_setting_is_named(gateway: Process) -> None:
    del gateway._environ["STOA_REGION"]
    done = subprocess.run(
        [sys.executable, "-m", "gateway"], env=gateway._environ, capture_output=True, text=True
    )
    assert done.returncode == 1
    assert done.stderr.strip() == "gateway: set STOA_REGION or STOA_REGION_FILE"
    assert connection.settings_dict["PORT"] not in done.stderr
