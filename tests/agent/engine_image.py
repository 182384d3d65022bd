"""vLLM as an image, built on the spot: the engine environment of this machine, the Python that it
stands on, and every library that either is linked to. No base image, no registry.

Built once for each lock, into a store of its own that podman reads beside its own (2.4 GB).
"""

import fcntl
import hashlib
import shutil
import subprocess
from pathlib import Path

from tests.agent import oci
from tests.agent.podman import Podman
from workers.agent import environment, shared_libraries
from workers.agent.environment import Environment

REFERENCE = "localhost/stoa-vllm:1"
MADE = 1  # another one is made anew
LOOKED_FOR = ("libsndfile",)  # at run time, by name: nothing is linked to it
TOOLS = ("sh", "lscpu")  # vLLM asks the one, by the other, what the processor is


def store(engine: Environment) -> Path:
    """An image store that holds REFERENCE; made by whoever needs it first."""
    stamp = (engine.root / environment.STAMP).read_bytes()
    digest = hashlib.sha256(f"{MADE} {engine.root} ".encode() + stamp)
    root = environment.default_cache() / "test-images" / digest.hexdigest()[:16]
    root.parent.mkdir(parents=True, exist_ok=True)
    with root.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (root / "built").exists():
            shutil.rmtree(root, ignore_errors=True)
            _build(engine, root)
            (root / "built").touch()
    return root


def _build(engine: Environment, root: Path) -> None:
    stand = Podman()
    try:
        path = f"{engine.root}/bin:/usr/local/bin:/usr/bin:/bin"
        libraries = shared_libraries.folder(engine.root)
        with stand.begin(
            "--root",
            str(root),
            "import",
            f"--change=ENV PATH={path}",
            f"--change=ENV LD_LIBRARY_PATH={libraries}",
            '--change=ENTRYPOINT ["vllm", "serve"]',
            "-",
            REFERENCE,
        ) as importing:
            assert importing.stdin is not None
            layer = oci.Layer(importing.stdin)
            layer.tree(engine.root)
            layer.libraries(engine.root.rglob("*.so*"), outside=engine.root)
            oci.add_python(layer)
            for library in LOOKED_FOR:
                for one in oci.installed(library):  # or it lies in the environment
                    layer.program(one, f"{one.parent}/{library}.so".lstrip("/"))
            for tool in TOOLS:
                found = shutil.which(tool)
                assert found, f"{tool} is missing"
                layer.program(Path(found), f"usr/bin/{tool}")
            layer.link("bin/sh", "/usr/bin/sh")
            layer.close()
        if importing.returncode:
            raise subprocess.CalledProcessError(importing.returncode, "podman import")
    finally:
        stand.close()
