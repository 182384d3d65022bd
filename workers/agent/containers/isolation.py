"""The walls around a container: what is asked of the engine of containers, and what came of it.

One list for every image, whoever made it: nothing here can be switched off by an endpoint.
"""

import contextlib
import os
import stat
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

TMP_BYTES = 2 << 30  # of /tmp and of /dev/shm, within the container's memory
OOM_SCORE = 500  # when memory runs out an engine goes, and not the agent
HOME = Path("/stoa/home")  # its own, writable, and gone with it
MODEL = Path("/stoa/model")

_PROC = Path("/proc")
_GROUPS = Path("/sys/fs/cgroup")
_NO_CAPABILITIES = ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")
_FILTERED = "2"  # of the status line Seccomp


class WallsMissing(Exception):
    """A container without a wall that it was to have; the message says which."""


@dataclass(frozen=True)
class Mount:
    source: Path
    target: Path
    writable: bool = False


@dataclass(frozen=True)
class Box:
    """One container, wholly. `devices` are names of the Container Device Interface."""

    name: str
    image: str  # its id
    uid: int
    memory_bytes: int
    pids: int
    labels: Mapping[str, str]
    entrypoint: Sequence[str] | None = None  # None: the image's, with the image's command
    command: Sequence[str] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    mounts: Sequence[Mount] = ()
    devices: Sequence[str] = ()
    grace_s: int = 10


def arguments(box: Box) -> dict[str, Any]:
    """What the Docker API's client is asked for: docker.DockerClient.containers.create."""
    # Not named: seccomp, where the engine's own default profile holds; `check` sees that it does.
    chosen: dict[str, Any] = {
        "image": box.image,
        "name": box.name,
        "network_mode": "none",
        "read_only": True,
        "cap_drop": ["ALL"],
        "security_opt": ["no-new-privileges"],
        "user": f"{box.uid}:{box.uid}",
        "mem_limit": box.memory_bytes,
        "memswap_limit": box.memory_bytes,
        "pids_limit": box.pids,
        "shm_size": min(TMP_BYTES, box.memory_bytes),
        "tmpfs": {"/tmp": f"rw,nosuid,nodev,mode=1777,size={min(TMP_BYTES, box.memory_bytes)}"},
        "oom_score_adj": OOM_SCORE,
        "ipc_mode": "private",
        "labels": dict(box.labels),
        "environment": dict(box.environment),
        "stop_signal": "SIGTERM",
        "working_dir": str(HOME),
        "restart_policy": {"Name": "no"},
        "log_config": {"Type": "none", "Config": {}},  # the door keeps what it says, and once
        "volumes": [
            f"{one.source}:{one.target}:{'rw' if one.writable else 'ro'}" for one in box.mounts
        ],
    }
    if box.entrypoint is not None:
        chosen["entrypoint"], chosen["command"] = list(box.entrypoint), list(box.command)
    return chosen


def specification(box: Box) -> dict[str, Any]:
    """The same for podman's own API, which gives a container CDI devices where podman's answer to
    Docker's leaves them out without a word."""
    room = min(TMP_BYTES, box.memory_bytes)
    mounts = [
        {
            "destination": str(one.target),
            "source": str(one.source),
            "type": "bind",
            "options": ["rbind", "rw" if one.writable else "ro"],
        }
        for one in box.mounts
    ]
    tmp = ["rw", "nosuid", "nodev", "mode=1777", f"size={room}"]
    mounts.append({"destination": "/tmp", "source": "tmpfs", "type": "tmpfs", "options": tmp})
    chosen: dict[str, Any] = {
        "image": box.image,
        "name": box.name,
        "netns": {"nsmode": "none"},
        "ipcns": {"nsmode": "private"},
        "read_only_filesystem": True,
        "cap_drop": ["ALL"],
        "no_new_privileges": True,
        "user": f"{box.uid}:{box.uid}",
        "resource_limits": {
            "memory": {"limit": box.memory_bytes, "swap": box.memory_bytes},
            "pids": {"limit": box.pids},
        },
        "shm_size": room,
        "oom_score_adj": OOM_SCORE,
        "labels": dict(box.labels),
        "env": dict(box.environment),
        "stop_signal": 15,
        "work_dir": str(HOME),
        "restart_policy": "no",
        "log_configuration": {"driver": "none"},
        "mounts": mounts,
        "devices": [{"path": name} for name in box.devices],
    }
    if box.entrypoint is not None:
        chosen["entrypoint"], chosen["command"] = list(box.entrypoint), list(box.command)
    return chosen


def check(pid: int, uid: int) -> None:
    """Look from outside, in /proc, whether the container of process `pid` is as it was asked for.

    An engine of containers may be set up otherwise, or leave out what it does not know. Raises
    WallsMissing, and OSError where the process is gone.
    """
    folder = _PROC / str(pid)
    status = _status(folder)
    wrong = []
    if set(status["Uid"].split()) | set(status["Gid"].split()) != {str(uid)}:
        wrong.append(f"it runs under user id {status['Uid'].split()[0]} and not {uid}")
    held = [name for name in _NO_CAPABILITIES if int(status[name], 16)]
    if held:
        wrong.append(f"it holds capabilities ({', '.join(held)})")
    if status["NoNewPrivs"] != "1":
        wrong.append("it may gain privileges")
    if status["Seccomp"] != _FILTERED:
        wrong.append("no seccomp filter holds")
    for space in ("net", "mnt", "pid", "ipc"):
        if _same(folder / "ns" / space, _PROC / "self/ns" / space):
            wrong.append(f"it shares the host's {space} namespace")
    if interfaces := _interfaces(folder) - {"lo"}:
        wrong.append(f"it has network interfaces: {', '.join(sorted(interfaces))}")
    if not _read_only(folder):
        wrong.append("its root is writable")
    if wrong:
        raise WallsMissing("; ".join(wrong))


def killed_for_memory(pid: int) -> Callable[[], bool]:
    """Whether the kernel has killed in the container of process `pid` for want of memory; to be
    asked later, until its control group is gone."""
    events = _memory_events(pid)

    def asked() -> bool:
        with contextlib.suppress(OSError, ValueError):
            lines = (line.split() for line in events.read_text().splitlines())
            return any(len(line) == 2 and line[0] == "oom_kill" and int(line[1]) for line in lines)
        return False

    return asked


def _memory_events(pid: int) -> Path:
    """The file of counts, of either kind of control groups."""
    unified = ""
    for line in (_PROC / str(pid) / "cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        if "memory" in controllers.split(","):
            return _GROUPS / "memory" / path.lstrip("/") / "memory.oom_control"
        if not controllers:
            unified = path
    return _GROUPS / unified.lstrip("/") / "memory.events"


def lacking(pid: int, paths: Sequence[str]) -> list[str]:
    """Which device nodes are not in the container of process `pid`."""
    missing = []
    for path in paths:
        try:
            mode = os.stat(_PROC / str(pid) / "root" / path.lstrip("/")).st_mode
        except OSError:
            mode = 0
        if not stat.S_ISCHR(mode) and not stat.S_ISBLK(mode):
            missing.append(path)
    return missing


def _status(folder: Path) -> dict[str, str]:
    lines = (line.partition(":") for line in (folder / "status").read_text().splitlines())
    return {name: value.strip() for name, _, value in lines}


def _same(one: Path, other: Path) -> bool:
    return one.stat().st_ino == other.stat().st_ino


def _interfaces(folder: Path) -> set[str]:
    lines = (folder / "net/dev").read_text().splitlines()[2:]
    return {line.partition(":")[0].strip() for line in lines}


def _read_only(folder: Path) -> bool:
    """The mount at / that is on top, which is the last one of that name."""
    found = ""
    for line in (folder / "mountinfo").read_text().splitlines():
        fields = line.split()
        if fields[4] == "/":
            found = fields[5]
    return "ro" in found.split(",")
