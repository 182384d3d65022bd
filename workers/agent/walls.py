"""Which walls this node can raise around an engine, and the uids it hands out.

The walls themselves are raised in launcher.isolation, by the process that becomes the engine.
"""

import contextlib
import fcntl
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from controlplane.fleet.wire import Wall
from workers.agent import kin, remains
from workers.agent.launcher import isolation
from workers.agent.launcher.isolation import OWN, SHARED, USER, Isolation

UIDS = 4_096


def _first_uid(text: str) -> int:
    """Those of people and services of the machine are not for engines."""
    if not text.isdecimal() or not 1_000 <= int(text) < (1 << 31) - UIDS:
        sys.exit(f"STOA_AGENT_FIRST_UID={text!r}: expected a user id, 1000 at least")
    return int(text)


FIRST_UID = _first_uid(os.environ.get("STOA_AGENT_FIRST_UID") or "200000")

_CLAIMS = Path("/run/stoa-uids")
_TRIAL = Path(isolation.__file__)


class WallError(Exception):
    """An engine's place could not be made; the message is for a person."""


@dataclass(frozen=True)
class Survey:
    """What this process can raise. `missing`: wall -> why not, in a person's words."""

    can: frozenset[Wall]
    missing: Mapping[str, str] = field(default_factory=dict)
    network: str = SHARED


def survey(paths: Sequence[Path] = (), *, python: str = sys.executable) -> Survey:
    """Try each wall in a process of its own. `paths`: what engines must be able to reach.

    The answer holds until the process's rights or the modes of `paths` change: ask once.
    """
    can = {Wall.SOCKET}
    missing: dict[str, str] = {}
    if os.geteuid() == 0:
        expose = tuple(str(path) for path in paths)
        trial = Isolation(uid=FIRST_UID + UIDS, expose=expose)
        if refusal := _try(trial, python, expose):
            missing[Wall.UID] = f"engines cannot run under a user id of their own: {refusal}"
        else:
            can.add(Wall.UID)
    else:
        missing[Wall.UID] = "the agent does not run as root, so engines share its user id"
    kind = OWN if os.geteuid() == 0 else USER
    if refusal := _try(Isolation(network=kind), python, ()):
        missing[Wall.NETWORK] = f"engines share the host's network: {refusal}"
        kind = SHARED
    else:
        can.add(Wall.NETWORK)
        if kind == OWN and not _try(Isolation(network=OWN, gang="10.0.0.1"), python, ()):
            can.add(Wall.GANG)
    return Survey(frozenset(can), missing, kind)


def _try(trial: Isolation, python: str, reach: Sequence[str]) -> str:
    """Empty when the walls stand, else the kernel's reason."""
    command = [python, "-I", str(_TRIAL), json.dumps(trial.encode()), *reach]
    done = subprocess.run(command, capture_output=True, text=True, cwd="/")
    if done.returncode == 0:
        return ""
    return (done.stderr.strip().splitlines() or ["unknown reason"])[-1]


def claim_uid(holder: Path) -> int:
    """A uid that no other engine of this machine has, written down as held by `holder`.

    `holder` is the engine's directory: the claim ends when it is gone and no process runs under
    the uid. Root only. Raises WallError when all are taken.
    """
    with _claims() as folder:
        taken = {process.uid for process in kin.everybody()}
        for uid in range(FIRST_UID, FIRST_UID + UIDS):
            claim = folder / str(uid)
            if claim.is_symlink():
                if os.readlink(claim) == str(holder):
                    return uid
                if os.path.lexists(os.readlink(claim)):
                    continue
            if uid in taken:
                continue
            claim.unlink(missing_ok=True)
            claim.symlink_to(holder)
            return uid
    raise WallError(f"all {UIDS} user ids for engines are taken")


def release_uid(uid: int, holder: Path) -> None:
    """Its engine is gone. What it left on the machine goes too: the next engine may be given it."""
    with _claims() as folder:
        claim = folder / str(uid)
        if claim.is_symlink() and os.readlink(claim) == str(holder):
            remains.erase_all(uid)
            claim.unlink()


def is_engines(uid: int) -> bool:
    """Whether it is one that engines are given."""
    return FIRST_UID <= uid < FIRST_UID + UIDS


def holders() -> dict[int, Path]:
    """Every claim of this machine, and whose it is. Empty for who is not root."""
    found: dict[int, Path] = {}
    with contextlib.suppress(OSError):
        for claim in _CLAIMS.iterdir():
            if claim.name.isdigit() and claim.is_symlink():
                found[int(claim.name)] = Path(os.readlink(claim))
    return found


@contextlib.contextmanager
def unheld(uid: int, but: Path | None = None) -> Iterator[bool]:
    """Whether nobody has it, `but` apart; while the block runs nobody is given it."""
    with _claims() as folder:
        claim = folder / str(uid)
        holder = Path(os.readlink(claim)) if claim.is_symlink() else None
        claimed = holder is not None and holder != but and os.path.lexists(holder)
        yield not claimed and all(process.uid != uid for process in kin.everybody())


@contextlib.contextmanager
def _claims() -> Iterator[Path]:
    """The claims of every agent on this machine; they do not outlive a boot, as engines do not."""
    folder = _CLAIMS
    folder.mkdir(mode=0o700, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield folder


def private_directory(path: Path, uid: int | None) -> Path:
    """`path`, empty, mode 0700, owned by `uid`. What an earlier engine left is removed."""
    shutil.rmtree(path, ignore_errors=True)
    path.mkdir(parents=True, mode=0o700)
    if uid is not None:
        os.chown(path, uid, uid)
    return path
