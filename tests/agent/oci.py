"""OCI images made on the spot from files of this machine: no registry, no base image.

An image is what it needs and no more: an interpreter with the libraries that it is linked to, and
a program of ours.
"""

import hashlib
import io
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, Any

_LIBRARY = re.compile(r"(/\S+) \(0x")
_LEFT_OUT = ("test", "site-packages", "idlelib", "tkinter", "ensurepip", "turtledemo", "lib2to3")
_OPENED = partial(tarfile.open, mode="w|")  # one piece after the other, and closed by `close`
ARCHITECTURE = {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())


class Layer:
    """A tree of files for an image, as a tar file: in memory, or into `stream` as it comes."""

    def __init__(self, stream: IO[bytes] | None = None) -> None:
        self.file = io.BytesIO()
        self.names: set[str] = set()
        self._tar = _OPENED(fileobj=stream or self.file)

    def add(self, source: Path, name: str, *, follow: bool = True) -> None:
        """One file, at `name` without the leading slash."""
        if name in self.names:
            return
        self.names.add(name)
        self._tar.add(source.resolve() if follow else source, name, recursive=False)

    def text(self, name: str, content: str, mode: int = 0o644) -> None:
        entry = tarfile.TarInfo(name)
        entry.size, entry.mode = len(content.encode()), mode
        self._tar.addfile(entry, io.BytesIO(content.encode()))

    def tree(self, root: Path, leave_out: Iterable[str] = ()) -> None:
        """Everything below `root`, at its own path; links stay links."""
        skipped = {root / name for name in leave_out}
        for folder, below, names in os.walk(root):
            below[:] = [name for name in below if Path(folder) / name not in skipped]
            for name in names:
                path = Path(folder) / name
                self.add(path, str(path).lstrip("/"), follow=False)

    def program(self, path: Path, name: str = "") -> None:
        """A program, with every library that it is linked to."""
        self.add(path, name or str(path).lstrip("/"))
        self.libraries([path])

    def libraries(self, paths: Iterable[Path], outside: Path | None = None) -> None:
        """What they are linked to, but for what lies below `outside`."""
        for library in sorted(linked(paths)):
            if outside is None or not Path(library).is_relative_to(outside):
                self.add(Path(library), library.lstrip("/"))

    def link(self, name: str, target: str) -> None:
        entry = tarfile.TarInfo(name)
        entry.type, entry.linkname = tarfile.SYMTYPE, target
        self._tar.addfile(entry)

    def close(self) -> bytes:
        self._tar.close()
        return self.file.getvalue()


def linked(paths: Iterable[Path]) -> set[str]:
    """The shared libraries that these are linked to, as their loader finds them."""
    command = ["xargs", "-0", "ldd"]
    said = "\0".join(map(str, paths))
    done = subprocess.run(command, input=said, capture_output=True, text=True, check=False)
    return {match[1] for match in _LIBRARY.finditer(done.stdout)}


def installed(library: str) -> list[Path]:
    """Where this machine has a shared library, at most once."""
    ldconfig = shutil.which("ldconfig", path="/sbin:/usr/sbin") or "ldconfig"
    done = subprocess.run([ldconfig, "-p"], capture_output=True, text=True, check=False)
    found = re.search(rf"^\s*{library}\.so\S* .*=> (\S+)$", done.stdout, re.MULTILINE)
    return [Path(found[1])] if found else []


def python() -> Path:
    """The interpreter of the tests itself, not that of its environment."""
    return Path(sys.executable).resolve()


def python_layer(*programs: Path) -> bytes:
    """Python as it runs here, its libraries, and `programs` under /app."""
    layer = Layer()
    add_python(layer)
    for program in programs:
        layer.add(program, f"app/{program.name}")
    return layer.close()


def add_python(layer: Layer) -> None:
    """The interpreter, its library and what they are linked to, where they are here."""
    library = Path(sysconfig.get_path("stdlib"))
    layer.program(python())
    left_out = [*_LEFT_OUT, *(path.name for path in library.glob("config-*"))]
    layer.tree(library, left_out)
    layer.libraries(sorted((library / "lib-dynload").glob("*.so")))


@dataclass(frozen=True)
class Image:
    """One image of one layer: `config` and `layer` are blobs as a registry holds them."""

    config: bytes
    layer: bytes

    def archive(self, reference: str) -> bytes:
        """As `docker load` takes it."""
        name = f"{hashlib.sha256(self.layer).hexdigest()}.tar"
        manifest = [{"Config": "config.json", "RepoTags": [reference], "Layers": [name]}]
        file = io.BytesIO()
        with tarfile.open(fileobj=file, mode="w") as tar:
            for path, content in (
                (name, self.layer),
                ("config.json", self.config),
                ("manifest.json", json.dumps(manifest).encode()),
            ):
                entry = tarfile.TarInfo(path)
                entry.size = len(content)
                tar.addfile(entry, io.BytesIO(content))
        return file.getvalue()


def image(layer: bytes, entrypoint: list[str], command: list[str] | None = None) -> Image:
    digest = hashlib.sha256(layer).hexdigest()
    run: dict[str, Any] = {"Entrypoint": entrypoint, "Cmd": command or []}
    run["Env"] = ["PATH=/usr/local/bin:/usr/bin:/bin"]
    config = {
        "architecture": ARCHITECTURE,
        "os": "linux",
        "config": run,
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{digest}"]},
    }
    return Image(json.dumps(config).encode(), layer)
