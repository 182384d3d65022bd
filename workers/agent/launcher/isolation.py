"""Raising the walls around an engine, from inside the process that will become it.

Standard library alone. Called after the fork and before the first line of tenant's work, by a
process with one thread (the kernel moves only the calling thread into a user namespace).
"""

import ctypes
import fcntl
import json
import os
import resource
import socket
import stat
import struct
import sys
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

CLONE_NEWNS = 0x00020000
CLONE_NEWUSER = 0x10000000
CLONE_NEWNET = 0x40000000
MS_RDONLY = 1
MS_REMOUNT = 32
MS_BIND = 4096
MS_REC = 16384
MS_PRIVATE = 1 << 18
MS_NOSUID_NODEV = 2 | 4
PR_SET_NO_NEW_PRIVS = 38
PR_CAPBSET_DROP = 24
SIOCSIFFLAGS = 0x8914
SIOCSIFADDR = 0x8916
SIOCSIFNETMASK = 0x891C
SIOCSIFMTU = 0x8922
IFF_UP_RUNNING = 0x41
IFF_TUN_NO_PI = 0x1001
TUNSETIFF = 0x400454CA
TUNSETPERSIST = 0x400454CB
TUNSETOWNER = 0x400454CC
CAPABILITY_VERSION_3 = 0x20080522

SHARED = "shared"  # the host's network: no wall
OWN = "own"  # a network namespace, made with root's rights
USER = "user"  # a network namespace inside a user namespace: no rights needed

GANG = "gang0"  # the interface towards the other members of a gang
GANG_NETMASK = "255.255.255.0"
GANG_MTU = 65_520  # each packet costs the agents a copy, and nothing on the way is smaller

_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True)
class Isolation:
    """The walls of one engine. `expose` are paths that its uid must be able to reach; `gang` is
    its address on its gang's network, which only a network of the kind OWN can have."""

    uid: int | None = None
    network: str = SHARED
    expose: tuple[str, ...] = ()
    gang: str = ""

    def encode(self) -> dict[str, object]:
        return asdict(self)

    @classmethod
    def decode(cls, raw: dict[str, object]) -> "Isolation":
        uid, expose = raw["uid"], raw["expose"]
        assert uid is None or isinstance(uid, int)
        assert isinstance(expose, list | tuple)
        paths = tuple(str(path) for path in expose)
        return cls(uid, str(raw["network"]), paths, str(raw.get("gang", "")))


def enclose(isolation: Isolation) -> None:
    """Put this process behind its walls; there is no way back. Raises OSError."""
    if isolation.network == USER:
        _enter_user_network()
    elif isolation.network == OWN:
        _call("unshare", CLONE_NEWNET)
    if isolation.network != SHARED:
        _bring_loopback_up()
    if isolation.gang:
        if isolation.network != OWN:
            raise OSError("a gang's member needs a network namespace of its own")
        _open_gang_network(isolation.gang)
    if isolation.uid is not None:
        uncover(isolation.expose)
        os.setgroups([])
        os.setresgid(isolation.uid, isolation.uid, isolation.uid)
        os.setresuid(isolation.uid, isolation.uid, isolation.uid)
    if isolation.network == USER:
        # Inside its user namespace the process still holds every capability.
        _drop_capabilities()
    _call("prctl", PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    # 1 and not 0: a limit of zero still lets the kernel pipe a dump, and with it the prompts in
    # memory, to a crash handler; one byte is the kernel's own word for "never".
    resource.setrlimit(resource.RLIMIT_CORE, (1, 1))
    os.umask(0o077)


def hidden(paths: Iterable[str]) -> dict[str, list[str]]:
    """Paths that other users cannot reach, by the closed directory above them."""
    found: dict[str, list[str]] = {}
    for path in dict.fromkeys(os.path.realpath(path) for path in paths):
        for above in reversed(Path(path).parents):
            if not above.stat().st_mode & stat.S_IXOTH:
                found.setdefault(str(above), []).append(path)
                break
    return found


def uncover(paths: Iterable[str]) -> None:
    """Make `paths` reachable for any uid of this process alone, in a mount namespace of its own.

    The closed directory (root's home, say) is covered by an empty one that shows nothing but the
    paths asked for. Does nothing where all can be reached anyway. Raises OSError.
    """
    closed = hidden(paths)
    if not closed:
        return
    os.umask(0o022)  # the standby's own would close what is opened here
    _call("unshare", CLONE_NEWNS)
    _mount("none", "/", None, MS_REC | MS_PRIVATE)
    for directory, inside in closed.items():
        handles = [(path, os.open(path, os.O_PATH)) for path in sorted(inside)]
        _mount("tmpfs", directory, "tmpfs", MS_NOSUID_NODEV, "mode=755,size=64k")
        for path, handle in handles:
            is_folder = stat.S_ISDIR(os.fstat(handle).st_mode)
            if not os.path.lexists(path):
                os.makedirs(path if is_folder else os.path.dirname(path), 0o755, exist_ok=True)
                if not is_folder:
                    os.close(os.open(path, os.O_CREAT | os.O_WRONLY, 0o600))
                _mount(f"/proc/self/fd/{handle}", path, None, MS_BIND | MS_REC)
            os.close(handle)
        _mount("tmpfs", directory, "tmpfs", MS_NOSUID_NODEV | MS_REMOUNT | MS_RDONLY, "mode=755")


def _enter_user_network() -> None:
    uid, gid = os.getuid(), os.getgid()
    _call("unshare", CLONE_NEWUSER | CLONE_NEWNET)
    # The kernel lets an ordinary user map its gid only after giving setgroups up.
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/uid_map").write_text(f"{uid} {uid} 1")
    Path("/proc/self/gid_map").write_text(f"{gid} {gid} 1")


def _bring_loopback_up() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        request = struct.pack("16sH22x", b"lo", IFF_UP_RUNNING)
        fcntl.ioctl(control, SIOCSIFFLAGS, request)


def _open_gang_network(address: str) -> None:
    """An interface that carries packets to whoever holds its other end: the node's agent.

    It stays while no agent holds it, so that connections outlive an agent's restart. Only root
    may take the end up: an engine cannot, whatever the modes of /dev/net/tun.
    """
    handle = os.open("/dev/net/tun", os.O_RDWR)
    try:
        fcntl.ioctl(handle, TUNSETIFF, struct.pack("16sH22x", GANG.encode(), IFF_TUN_NO_PI))
        fcntl.ioctl(handle, TUNSETOWNER, 0)
        fcntl.ioctl(handle, TUNSETPERSIST, 1)
    finally:
        os.close(handle)
    name = GANG.encode()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        for request, value in ((SIOCSIFADDR, address), (SIOCSIFNETMASK, GANG_NETMASK)):
            packed = struct.pack("16sHH4s16x", name, socket.AF_INET, 0, socket.inet_aton(value))
            fcntl.ioctl(control, request, packed)
        fcntl.ioctl(control, SIOCSIFMTU, struct.pack("16si20x", name, GANG_MTU))
        fcntl.ioctl(control, SIOCSIFFLAGS, struct.pack("16sH22x", name, IFF_UP_RUNNING))


def _drop_capabilities() -> None:
    header = struct.pack("Ii", CAPABILITY_VERSION_3, 0)
    if _libc.capset(header, bytes(24)) != 0:
        _fail("capset")


def _mount(source: str, target: str, kind: str | None, flags: int, data: str = "") -> None:
    result = _libc.mount(
        source.encode(),
        target.encode(),
        kind.encode() if kind else None,
        ctypes.c_ulong(flags),
        data.encode() if data else None,
    )
    if result != 0:
        _fail(f"mount {target}")


def _call(name: str, *arguments: int) -> None:
    if getattr(_libc, name)(*(ctypes.c_ulong(value) for value in arguments)) != 0:
        _fail(name)


def _fail(what: str) -> None:
    number = ctypes.get_errno()
    raise OSError(number, f"{what}: {os.strerror(number)}")


def main() -> None:
    """Try the walls given as JSON in argv[1]: exit status 0, or the reason on standard error."""
    try:
        enclose(Isolation.decode(json.loads(sys.argv[1])))
        for path in sys.argv[2:]:
            os.stat(path)
    except OSError as error:
        sys.exit(str(error.strerror or error))


if __name__ == "__main__":
    main()
