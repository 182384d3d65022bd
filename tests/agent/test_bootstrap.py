"""uv on a machine whose Python has neither pip nor venv: by itself, from the package cache."""

import base64
import http.server
import importlib.util
import platform
import threading
import zipfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from types import ModuleType

import pytest

from tests.lab.packages import Handler
from workers.agent import uv

ROOT = Path(__file__).resolve().parents[2]
HERE = platform.machine()


@pytest.fixture
def bootstrap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    spec = importlib.util.spec_from_file_location("bootstrap", ROOT / "deploy" / "bootstrap.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "has_module", lambda name: False)
    monkeypatch.setattr(uv, "OWN", tmp_path / "own" / "bin" / "uv")
    for name in ("UV_INDEX", "UV_DEFAULT_INDEX", "PIP_EXTRA_INDEX_URL", "PIP_INDEX_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    return module


class Closed(Handler):
    """A cache that lets one user in."""

    def do_GET(self) -> None:
        proof = "Basic " + base64.b64encode(b"node:s/3").decode()
        if self.headers.get("Authorization") == proof:
            super().do_GET()
        else:
            self.send_error(401)


@pytest.fixture
def cache(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """Its address and its folder."""
    folder = tmp_path / "wheels"
    folder.mkdir()
    server = http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), partial(Closed, directory=str(folder))
    )
    serving = threading.Thread(target=server.serve_forever)
    serving.start()
    yield f"127.0.0.1:{server.server_address[1]}/simple", folder
    server.shutdown()
    serving.join()
    server.server_close()


def wheel(folder: Path, version: str, tag: str) -> None:
    name = f"uv-{version}-py3-none-{tag}.whl"
    with zipfile.ZipFile(folder / name, "w") as packed:
        packed.writestr(f"uv-{version}.data/scripts/uv", version)


def test_the_newest_that_runs_here_comes_from_the_configured_index(
    bootstrap: ModuleType, cache: tuple[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    address, folder = cache
    for version, tag in (
        ("0.9.1", f"manylinux_2_17_{HERE}.manylinux2014_{HERE}"),
        ("0.10.0", f"manylinux_2_28_{HERE}"),
        ("0.11.0", "manylinux_2_17_other"),
        ("0.12.0", "win_amd64"),
    ):
        wheel(folder, version, tag)
    monkeypatch.setenv("PIP_INDEX_URL", f"http://node:s%2F3@{address}")
    assert bootstrap.fetch_uv() == uv.OWN
    assert uv.OWN.read_text() == "0.10.0" and uv.OWN.stat().st_mode & 0o111


def test_where_there_is_none_it_says_what_to_do_and_no_password(
    bootstrap: ModuleType,
    cache: tuple[str, Path],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(bootstrap, "install_venv_package", lambda: False)
    monkeypatch.setenv("PIP_INDEX_URL", f"http://node:wrong@{cache[0]}")
    with pytest.raises(SystemExit, match="Name your package index in PIP_INDEX_URL"):
        bootstrap.fetch_uv()
    said = capsys.readouterr().out
    assert "401" in said and "wrong" not in said
    assert not uv.OWN.exists()


def test_a_wheel_that_is_not_what_its_index_says_is_not_run(
    bootstrap: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = tmp_path / "index" / "uv" / "index.html"
    page.parent.mkdir(parents=True)
    wheel(page.parent, "1.0", f"manylinux_2_17_{HERE}")
    (file,) = page.parent.glob("*.whl")
    page.write_text(f'<a href="{file.name}#sha256={"0" * 64}">uv</a>')
    monkeypatch.setattr(bootstrap, "get", lambda url: fetched(url, tmp_path))
    monkeypatch.setenv("PIP_INDEX_URL", "http://packages.example/index")
    with pytest.raises(SystemExit, match="is not what its index says"):
        bootstrap.fetch_uv()
    assert not uv.OWN.exists()


def fetched(url: str, folder: Path) -> bytes:
    path = folder / url.partition("#")[0].removeprefix("http://packages.example/").rstrip("/")
    return (path / "index.html" if path.is_dir() else path).read_bytes()
