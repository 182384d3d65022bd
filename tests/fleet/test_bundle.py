"""What nodes fetch: the agent, whole and nothing else, the same bytes each time."""

import hashlib
import io
import os
import subprocess
import sys
import tarfile
from pathlib import Path

from controlplane.fleet import bundle


def test_the_same_files_give_the_same_bytes() -> None:
    first = bundle.current()
    bundle.current.cache_clear()
    assert bundle.current() == first
    assert first.digest == hashlib.sha256(first.content).hexdigest()


def test_it_runs_by_itself_and_holds_nothing_of_the_house(tmp_path: Path) -> None:
    with tarfile.open(fileobj=io.BytesIO(bundle.current().content)) as archive:
        names = archive.getnames()
        archive.extractall(tmp_path, filter="data")
    house = [name for name in names if name.startswith(("platform/", "workers/"))]
    assert [name for name in house if "django" in (tmp_path / name).read_text().split()] == []
    assert not any(name.startswith("platform/controlplane/api") for name in names)
    assert {"requirements/agent.lock", "deploy/bootstrap.py"} <= set(names)
    (tmp_path / "BUNDLE").write_text("0123456789abcdef")
    said = subprocess.run(
        [
            *(sys.executable, "-c"),
            "import workers.agent.__main__, workers.agent.settings as s, controlplane.fleet.wire;"
            "print(s.__file__, s.VERSION)",
        ],
        env={"PATH": os.environ["PATH"], "PYTHONPATH": f"{tmp_path}:{tmp_path / 'platform'}"},
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    assert said.returncode == 0, said.stderr
    assert said.stdout.startswith(f"{tmp_path}/workers")
    assert said.stdout.strip().endswith("+0123456789ab")
