import signal
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import openai
import pytest

from controlplane.endpoints.models import Endpoint
from tests.batches.live import Django, client
from tests.gateway.fake_engine import FakeEngine
from tests.gateway.house import Beat, House, Road, beat, house, road
from tests.gateway.test_process import Process
from workers.local.embedded import free_port

__all__ = ["beat", "house", "road"]  # fixtures

CANARY_S = "1"
KEY = "sk-stoa-abcdefgh-" + "k" * 43


def family(pid: int) -> list[int]:
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [pid, *map(int, children)]


def peak(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    (line,) = (one for one in status.splitlines() if one.startswith("VmHWM"))
    return int(line.split()[1]) << 10


@dataclass
class Place:
    """One endpoint `tiny` on one fake engine, behind real processes."""

    house: House
    beat: Beat
    gateway: Process
    django: Django
    engine: FakeEngine
    endpoint: Endpoint
    web: "subprocess.Popen[bytes]"

    def peaks(self) -> list[int]:
        """The most bytes that the web process and the gateway's processes have had."""
        assert self.gateway.process is not None
        return [peak(pid) for pid in (self.web.pid, *family(self.gateway.process.pid))]

    @property
    def openai(self) -> openai.OpenAI:
        return client(self.gateway.port, KEY)


@pytest.fixture
def place(house: House, beat: Beat, road: Road, tmp_path: Path) -> Iterator[Place]:
    with tempfile.TemporaryDirectory(prefix="gw-") as short:
        endpoint = house.endpoint("tiny")
        engine = FakeEngine(Path(short) / "engine", endpoint.id)
        beat.run(engine.start())
        house.key(KEY)
        house.replica(endpoint, engine.address, engine_report={"max_num_seqs": 4})
        port = free_port()
        (tmp_path / "gateway").mkdir()
        django = Django(tmp_path, port, STOA_BATCH_CANARY_S=CANARY_S)
        settings = {"STOA_GATEWAY_PORT": str(port), "STOA_GATEWAY_CONTROLPLANE_URL": django.url}
        gateway = Process(tmp_path / "gateway", road.port, **settings)
        gateway.port = port
        try:
            web = django.web()
            gateway.start()
            yield Place(house, beat, gateway, django, engine, endpoint, web)
        finally:
            django.stop()
            if gateway.process is not None:
                gateway.end(signal.SIGKILL)
            beat.run(engine.stop())
