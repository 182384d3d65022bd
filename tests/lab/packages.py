"""A package cache: `python -m tests.lab.packages ADDRESS PORT FOLDER` serves a folder's wheels.

`collect` fetches what a node's agent is made of, once for this machine, from where pip looks here.
"""

import fcntl
import hashlib
import http.server
import os
import re
import shutil
import subprocess
import sys
import zipfile
from collections import defaultdict
from functools import partial
from pathlib import Path

from tests.lab.host import ROOT
from workers.agent import uv

_LOCK = ROOT / "requirements" / "agent.lock"


def collect(cache: Path) -> Path:
    """A folder with the wheels of the agent's lock, and uv's. Raises CalledProcessError."""
    facts = _LOCK.read_bytes() + sys.version.encode()
    folder = cache / "packages" / hashlib.sha256(facts).hexdigest()[:16]
    folder.parent.mkdir(parents=True, exist_ok=True)
    with folder.with_suffix(".lock").open("w") as alone:
        fcntl.flock(alone, fcntl.LOCK_EX)
        if not folder.exists():
            draft = folder.with_suffix(".new")
            shutil.rmtree(draft, ignore_errors=True)
            _download(draft, "--require-hashes", "-r", str(_LOCK))
            _download(draft, "uv")
            draft.rename(folder)
    return folder


def _download(target: Path, *what: str) -> None:
    tool = [str(uv.find()), "tool", "run", "--quiet", "--python", sys.executable, "pip"]
    options = ["download", "--quiet", "--no-deps", "--only-binary", ":all:", "-d", str(target)]
    subprocess.run([*tool, *options, *what], env=uv.environment(), check=True)


def wheel(folder: Path, name: str, version: str, code: str) -> None:
    """Put a wheel with one module into the folder, in place of a package of that name."""
    dist = f"{name}-{version}.dist-info"
    files = {
        f"{name}.py": code,
        f"{dist}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
        f"{dist}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    files[f"{dist}/RECORD"] = "".join(f"{path},,\n" for path in [*files, f"{dist}/RECORD"])
    with zipfile.ZipFile(folder / f"{name}-{version}-py3-none-any.whl", "w") as packed:
        for path, content in files.items():
            packed.writestr(path, content)


class Handler(http.server.SimpleHTTPRequestHandler):
    """`/simple/` and `/simple/NAME/` as PEP 503 has it; a file by its name."""

    def do_GET(self) -> None:
        words = self.path.strip("/").split("/")
        if words[0] != "simple":
            super().do_GET()
        elif len(words) == 1:
            self._list({f"/simple/{name}/" for name in self._projects()})
        elif files := self._projects().get(words[1]):
            self._list({f"/{file}" for file in files})
        else:
            self.send_error(404)

    def _projects(self) -> dict[str, list[str]]:
        found = defaultdict(list)
        for path in Path(self.directory).glob("*.whl"):
            found[re.sub(r"[-_.]+", "-", path.name.split("-")[0]).lower()].append(path.name)
        return found

    def _list(self, links: set[str]) -> None:
        rows = [f'<a href="{link}">{Path(link).name}</a>' for link in sorted(links)]
        page = "\n".join(["<!DOCTYPE html>", *rows]).encode()
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.send_header("Content-Length", str(len(page)))
        self.end_headers()
        self.wfile.write(page)


def main(address: str, port: int, folder: Path) -> None:
    handler = partial(Handler, directory=os.fspath(folder))
    with http.server.ThreadingHTTPServer((address, port), handler) as server:
        print("listening", flush=True)
        server.serve_forever()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), Path(sys.argv[3]))
