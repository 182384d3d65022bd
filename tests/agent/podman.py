"""Podman for tests: a service of its own, with a store, settings and socket under /tmp.

    @pytest.fixture(scope="session")  podman

Whatever this machine's own containers are, they are neither seen nor touched.
"""

import contextlib
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import docker
import pytest

from tests.agent import oci

NEEDED = ("podman", "runc", "conmon")
PROBE = "localhost/stoa-probe:1"
PROGRAM = Path(__file__).with_name("image_program.py")
START_S = 60.0

# runc: crun refuses a machine with both kinds of control groups. Limits below those that a service
# without rights to raise them has itself.
_SETTINGS = """
[containers]
default_ulimits = ["nofile=4096:4096", "nproc=16384:16384"]
[engine]
runtime = "runc"
cgroup_manager = "cgroupfs"
events_logger = "file"
"""


def missing() -> str:
    """Why podman cannot be tried here; empty: it can."""
    lacking = [name for name in NEEDED if not shutil.which(name, path=_PATH)]
    if lacking:
        return f"{', '.join(lacking)} missing: run `apt-get install podman runc` as root"
    return "" if os.geteuid() == 0 else "containers need root"


_PATH = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"


class Podman:
    """`podman system service` on a socket of its own."""

    def __init__(self, *, insecure: str = "", stores: list[Path] | None = None) -> None:
        self.root = Path(tempfile.mkdtemp(prefix="sp-", dir="/tmp"))
        self.socket = self.root / "podman.sock"
        self.address = f"unix://{self.socket}"
        conf = self.root / "containers.conf"
        conf.write_text(_SETTINGS)
        storage = self.root / "storage.conf"
        more = ", ".join(f'"{path}"' for path in stores or [])
        storage.write_text(
            f'[storage]\ndriver = "overlay"\ngraphroot = "{self.root}/store"\n'
            f'runroot = "{self.root}/run"\n[storage.options]\nadditionalimagestores = [{more}]\n'
        )
        registries = self.root / "registries.conf"
        registries.write_text(
            f'[[registry]]\nlocation = "{insecure}"\ninsecure = true\n' if insecure else ""
        )
        self._env = {
            "PATH": _PATH,
            "HOME": str(self.root),
            "TMPDIR": str(self.root),
            "CONTAINERS_CONF": str(conf),
            "CONTAINERS_STORAGE_CONF": str(storage),
            "CONTAINERS_REGISTRIES_CONF": str(registries),
        }
        self._service: subprocess.Popen[bytes] | None = None
        self._client: docker.DockerClient | None = None

    def start(self) -> None:
        with (self.root / "service.log").open("ab") as log:
            self._service = subprocess.Popen(
                ["podman", "system", "service", "-t", "0", self.address],
                env=self._env,
                cwd=self.root,  # conmon leaves a file there
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        deadline = time.monotonic() + START_S
        while not self.socket.exists():
            if self._service.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError((self.root / "service.log").read_text(errors="replace"))
            time.sleep(0.02)

    def halt(self) -> None:
        """The service ends; containers run on, as they do without a daemon."""
        if self._service is not None:
            self._service.kill()  # it holds nothing; asked to end it waits for connections
            self._service.wait()
            self.socket.unlink(missing_ok=True)
            self._service = None

    @property
    def client(self) -> docker.DockerClient:
        if self._client is None:
            self._client = docker.DockerClient(self.address, version="auto", timeout=120)
        return self._client

    def load(self, image: oci.Image, reference: str) -> None:
        list(self.client.images.load(image.archive(reference)))

    def podman(self, *arguments: str, **options: str) -> str:
        """The command line's own, on the same store."""
        done = subprocess.run(
            ["podman", *arguments],
            env={**self._env, **options},
            capture_output=True,
            text=True,
            check=True,
        )
        return done.stdout

    def begin(self, *arguments: str) -> subprocess.Popen[bytes]:
        """A command of podman that is given its input while it runs."""
        command = ["podman", *arguments]
        return subprocess.Popen(command, env=self._env, cwd=self.root, stdin=subprocess.PIPE)

    def close(self) -> None:
        """Nothing of it is left: no container, no service, no mount, no file."""
        with contextlib.suppress(docker.errors.DockerException, OSError):
            for one in self.client.containers.list(all=True):
                with contextlib.suppress(docker.errors.NotFound):
                    one.remove(force=True)
        if self._client is not None:
            self._client.close()
        self.halt()
        mounted = [
            line.split()[4]
            for line in Path("/proc/self/mountinfo").read_text().splitlines()
            if line.split()[4].startswith(f"{self.root}/")
        ]
        for path in sorted(mounted, reverse=True):
            subprocess.run(["umount", "-l", path], check=False)
        shutil.rmtree(self.root, ignore_errors=True)


def probe_image() -> oci.Image:
    """A small server, which also tries what it can reach (image_program.py)."""
    layer = oci.python_layer(PROGRAM)
    return oci.image(layer, [str(oci.python()), "-I", f"/app/{PROGRAM.name}"])


@contextlib.contextmanager
def running(*stores: Path) -> Iterator[Podman]:
    """With the image PROBE, and what is in these stores. Skips where it cannot be had."""
    if why := missing():
        pytest.skip(why)
    stand = Podman(stores=list(stores))
    try:
        stand.start()
        stand.load(probe_image(), PROBE)
        yield stand
    finally:
        stand.close()


@pytest.fixture(scope="session")
def podman() -> Iterator[Podman]:
    """Running, with the image PROBE."""
    with running() as stand:
        yield stand
