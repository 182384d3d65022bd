"""Brings the agent to another release: fetched by its hash, installed beside, tried by launch.py.

Only an agent that launch.py started, from a release, can do so. Whatever is written before the
last step (`next.json`) is a folder that nobody runs; after it, launch.py sees to the rest.
"""

import asyncio
import contextlib
import fcntl
import hashlib
import io
import logging
import os
import secrets
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path

import httpx
import msgspec

from controlplane.fleet import wire
from workers.agent import files, threads, uv
from workers.agent.client import Client, Unavailable, raise_for
from workers.agent.settings import BUNDLE, Settings

log = logging.getLogger("stoa.agent")

TIMEOUT_S = 120.0
INSTALLS = 3  # of one release in one attempt: an index may be away
MOST_BYTES = 64 << 20  # of a bundle, unpacked
_NAME = 12  # digits of a hash, which name a release's folder


class Restart(Exception):
    """The release to try is in place: end, and launch.py starts it."""


class Broken(Exception):
    """A release that cannot be installed here; the message says why."""


class Failed(msgspec.Struct, kw_only=True):
    """HOME/failed.json, launch.py's or ours."""

    sha256: str
    attempt: int
    why: str


class Updater:
    """Of one agent. `news`: the state is another one."""

    def __init__(
        self, settings: Settings, client: Client, news: Callable[[], None], own: str = BUNDLE
    ) -> None:
        self._home, self._try = settings.home, settings.home_try
        self._client, self._news, self._own = client, news, own
        self._wish: wire.AgentRelease | None = None
        self._wished = asyncio.Event()
        self._installs = 0
        self._counts = asyncio.Event()  # this release has reported: it stays
        self._failed = _failed(self._home) if self._home else None

    @property
    def state(self) -> wire.AgentState | None:
        """None where somebody else brings it to another release."""
        if self._home is None or not self._own:
            return None
        failed = self._failed
        if failed is None or failed.sha256 == self._own:
            return wire.AgentState(sha256=self._own)
        return wire.AgentState(
            sha256=self._own, failed=failed.sha256, attempt=failed.attempt, why=failed.why
        )

    def wish(self, release: wire.AgentRelease | None) -> None:
        if release != self._wish:
            self._wish, self._installs = release, 0
        if self._due() is not None:
            self._wished.set()

    async def heard(self) -> None:
        """A report was answered: with the first, this release counts. Raises OSError."""
        if not self._counts.is_set():
            await threads.call(self._count)
            self._counts.set()

    def _count(self) -> None:
        if self._home is None:
            return
        if self._try:
            self._failed = None  # what was tried before it
            files.remove(self._home / "failed.json")
            files.write(self._home / "confirmed", self._try.encode())
        _prune(self._home, {self._own[:_NAME], _text(self._home / "current")})

    async def step(self) -> None:
        """Once there is another release to run, bring it. Raises Restart, Unavailable, OSError."""
        await self._counts.wait()
        await self._wished.wait()
        release = self._due()
        if release is None:
            self._wished.clear()
            return
        try:
            await threads.call(self.bring, release)
        except Broken as error:
            self._installs += 1
            log.warning("release %s: %s", release.version, error)
            if self._installs >= INSTALLS:
                await threads.call(self._fail, release, str(error))
            raise Unavailable(str(error)) from error
        if self._due() != release:
            return  # it was withdrawn meanwhile
        await threads.call(self.hand_over, release)
        raise Restart(release.version)

    def bring(self, release: wire.AgentRelease) -> Path:
        """Its folder, ready to run. Blocks. Raises Broken, Unavailable, OSError."""
        assert self._home is not None
        root = self._home / "versions" / release.sha256[:_NAME]
        with (self._home / "install.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # what a killed agent began may still be under way
            if _text(root / "BUNDLE") != release.sha256:
                draft = root.with_name(f".{root.name}.new")
                shutil.rmtree(draft, ignore_errors=True)
                shutil.rmtree(root, ignore_errors=True)
                _unpack(self._fetched(release), draft)
                files.write(draft / "BUNDLE", release.sha256.encode())
                draft.rename(root)
            _install(root, lock.fileno())
        return root

    def hand_over(self, release: wire.AgentRelease) -> None:
        """Name it to launch.py. Blocks. Raises OSError."""
        assert self._home is not None
        said = {
            "release": release.sha256[:_NAME],
            "sha256": release.sha256,
            "attempt": release.attempt,
            "try": secrets.token_hex(16),
        }
        files.write(self._home / "next.json", msgspec.json.encode(said))
        log.info("release %s is installed: trying it", release.version)

    def _due(self) -> wire.AgentRelease | None:
        wish, failed = self._wish, self._failed
        if wish is None or self.state is None or wish.sha256 == self._own:
            return None
        tried = failed is not None and failed.sha256 == wish.sha256
        return None if tried and failed and failed.attempt >= wish.attempt else wish

    def _fail(self, release: wire.AgentRelease, why: str) -> None:
        assert self._home is not None
        self._failed = Failed(sha256=release.sha256, attempt=release.attempt, why=why[-400:])
        files.write(self._home / "failed.json", msgspec.json.encode(self._failed))
        self._news()

    def _fetched(self, release: wire.AgentRelease) -> bytes:
        url, headers, context = self._client.signed("GET", f"/bundle/{release.sha256}", b"")
        try:
            answer = httpx.get(
                url,
                headers=headers,
                timeout=TIMEOUT_S,
                verify=context,
                trust_env=self._client.trust_env,
            )
        except httpx.HTTPError as error:
            raise Unavailable(f"no answer: {type(error).__name__}") from error
        raise_for(answer)
        if hashlib.sha256(answer.content).hexdigest() != release.sha256:
            raise Broken("what was fetched is not what was named")
        return answer.content


def _unpack(content: bytes, root: Path) -> None:
    root.mkdir(parents=True)
    size = 0
    try:
        with tarfile.open(fileobj=io.BytesIO(content), mode="r:gz") as archive:
            for entry in archive:
                place, size = root / entry.name, size + entry.size
                inside = root.resolve() in place.resolve().parents
                if not entry.isfile() or not inside or size > MOST_BYTES:
                    raise Broken(f"its bundle holds {entry.name!r}, which no bundle of ours does")
                read = archive.extractfile(entry)
                assert read is not None
                place.parent.mkdir(parents=True, exist_ok=True)
                place.write_bytes(read.read())
    except (tarfile.TarError, EOFError) as error:
        raise Broken(f"its bundle cannot be unpacked: {error}") from error


def _install(root: Path, lock: int) -> None:
    """Its packages, checked against the hashes in its lock; nothing to do where they are there.

    `lock`: what the installer holds for as long as it lives.
    """
    base = getattr(sys, "_base_executable", sys.executable)  # the new environment is not of ours
    environment = {name: text for name, text in os.environ.items() if name != "PYTHONPATH"}
    if tool := uv.find():
        environment["STOA_UV"] = str(tool)
    done = subprocess.run(
        [base, str(root / "deploy" / "bootstrap.py"), "agent"],
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        pass_fds=(lock,),
    )
    if done.returncode:
        said = done.stdout.decode(errors="replace").strip()[-300:]
        raise Broken(f"its packages could not be installed: {said}")


def _prune(home: Path, kept: set[str]) -> None:
    """Remove releases that nothing runs from: an engine's helpers may be of an older one."""
    for root in (home / "versions").glob("*"):
        if root.name not in kept and not _in_use(root):
            shutil.rmtree(root, ignore_errors=True)


def _in_use(root: Path) -> bool:
    name = os.fsencode(root)
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if name in (process / "cmdline").read_bytes() + (process / "environ").read_bytes():
                return True
    return False


def _failed(home: Path) -> Failed | None:
    content = files.read(home / "failed.json")
    try:
        return None if content is None else msgspec.json.decode(content, type=Failed)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None


def _text(path: Path) -> str:
    return (files.read(path) or b"").decode(errors="replace").strip()
