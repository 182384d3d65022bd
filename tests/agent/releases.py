"""Releases of the agent for tests: its own files with fake engines, and packages that are there."""

import gzip
import hashlib
import io
import subprocess
import sys
import tarfile

from controlplane.fleet import bundle, wire
from tests.agent.fake_controlplane import ControlPlane
from tests.agent.node import ROOT, TestNode
from workers.agent import join_script, updating

# The agent itself, but for what runs its engines.
GOOD = f"""import sys
sys.path.append({str(ROOT)!r})
from tests.agent.fake_agent import main
sys.exit(main())
"""
ENDS = "raise SystemExit(9)\n"
HANGS = "import time\ntime.sleep(600)\n"
# Instead of packages from an index: those that the tests have.
_INSTALLER = f"""from pathlib import Path
python = Path(__file__).parents[1] / ".venv/bin/python"
python.parent.mkdir(parents=True, exist_ok=True)
python.unlink(missing_ok=True)
python.write_text('#!/bin/sh\\nexec {sys.executable} "$@"\\n')
python.chmod(0o755)
"""
NO_INSTALLER = "raise SystemExit('no such package')\n"


def made(name: str, program: str = GOOD, installer: str = _INSTALLER) -> tuple[str, bytes]:
    """A bundle of another release; its hash, and itself."""
    found: dict[str, bytes] = {}
    with tarfile.open(fileobj=io.BytesIO(bundle.current().content)) as archive:
        for entry in archive:
            read = archive.extractfile(entry)
            assert read is not None
            found[entry.name] = read.read()
    found["workers/agent/__main__.py"] = program.encode()
    found["deploy/bootstrap.py"] = installer.encode()
    found["RELEASE"] = name.encode()
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        for path, content in sorted(found.items()):
            entry = tarfile.TarInfo(path)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    content = gzip.compress(packed.getvalue(), mtime=0)
    return hashlib.sha256(content).hexdigest(), content


class Home:
    """A machine that runs the release "first" below launch.py."""

    def __init__(self, node: TestNode) -> None:
        self.node = node
        self.home = node.root / "home"
        self.home.mkdir()
        self.first, content = made("first")
        root = self.home / "versions" / self.first[:12]
        updating._unpack(content, root)
        (root / "BUNDLE").write_text(self.first)
        subprocess.run([sys.executable, str(root / "deploy/bootstrap.py")], check=True)
        join_script.count(self.home, root)

    def launch(self, limit_s: float = 60.0) -> subprocess.Popen[bytes]:
        environment = {**self.node.environment, "STOA_AGENT_TRY_S": str(limit_s)}
        with self.node.output.open("ab") as output:
            launcher = subprocess.Popen(
                [sys.executable, str(self.home / "launch.py"), str(self.home)],
                env=environment,
                cwd=self.node.root,
                stdout=output,
                stderr=output,
                stdin=subprocess.DEVNULL,
            )
        self.node._agents.append(launcher)
        return launcher

    @property
    def current(self) -> str:
        return (self.home / "current").read_text()


class House(Home):
    """One with a control plane of its own."""

    def __init__(self, plane: ControlPlane, node: TestNode) -> None:
        super().__init__(node)
        self.plane, self.attempt = plane, 0

    def offer(self, sha256: str, content: bytes) -> None:
        """Tell the node to run it."""
        self.plane.bundles[sha256] = content
        self.attempt += 1
        release = wire.AgentRelease(sha256=sha256, version=sha256[:12], attempt=self.attempt)

        def wish() -> None:
            self.plane.release = release

        self.plane.change(wish)

    @property
    def said(self) -> wire.AgentState | None:
        """What the newest inventory says of the agent."""
        found = [report.inventory for report in self.plane.reports if report.inventory]
        return found[-1].agent if found else None

    @property
    def runs(self) -> str:
        return self.said.sha256 if self.said else ""
