"""Several hosts on one machine, joined by a switch that can be told to lose what it carries.

    with lab() as net:
        a, b = net.host("a"), net.host("b")
        a.run(["curl", f"http://{b.address}/"])
        net.cut(a)

Needs root; `missing()` says why it cannot be had here. Everything lives in namespaces that end
with the process that made them; folders of one that was killed the next one removes.
"""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from tests.lab.host import ROOT, Host, LabError, Plan
from tests.lab.recorder import Recorder
from workers.agent import kin

NETWORK_V4, NETWORK_V6 = "10.77.0", "fd77:"
SWITCH = f"{NETWORK_V4}.1"  # where everything goes that is for nobody of the lab: it is refused
_PREFIX = "stoa-lab-"
_NOBODY = "02:00:00:00:00:00"  # a hardware address that nobody has
_PROGRAMS = ("ip", "unshare", "setpriv", "mount")


@cache
def missing() -> str:
    """Why no lab can be made here; empty where one can."""
    if os.geteuid() != 0:
        return "hosts of their own need root"
    if lacking := [name for name in _PROGRAMS if shutil.which(name) is None]:
        return f"hosts of their own need {', '.join(lacking)}"
    trial = ["unshare", "--net", "--mount", "--pid", "--uts", "--ipc", "--fork", "--mount-proc"]
    bridge = ["ip", "link", "add", "br0", "type", "bridge"]
    done = subprocess.run([*trial, *bridge], capture_output=True, text=True)
    return f"hosts of their own cannot be made: {done.stderr.strip()}" if done.returncode else ""


class Lab:
    """Made by `lab()`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.hosts: dict[str, Host] = {}
        self._lines: list[str] = []
        self._ports: dict[str, str] = {}  # host -> its port of the switch
        self.switch = Host(_switch(), SWITCH, folder)
        self.recorder = Recorder(self.switch.init)

    def host(
        self,
        name: str,
        *,
        own: Sequence[str] = ("/run",),
        shared: Sequence[str] = (),
        dns: str = SWITCH,
        code: bool = True,
    ) -> Host:
        """A new host.

        `own`: folders that it shares with nobody, empty at first. `shared`: folders of this
        machine, below one of those, that it may read; with `code` this code too. `dns`: whom
        it asks for names; by default the switch, which answers nobody.
        """
        number = len(self._lines) + 2
        address, port = f"{NETWORK_V4}.{number}", f"port{number}"
        folder = self.folder / name
        folder.mkdir()
        self._lines.append(f"{address} {name}\n")
        shared = (*shared, str(ROOT)) if code else shared
        plan = _plan(name, folder, own, shared, dns)
        host = Host(plan, address, folder)
        try:
            self._plug(host, number, port)
        except BaseException:
            host.kill()
            raise
        self.hosts[name], self._ports[name] = host, port
        self.recorder.follow(port, host)
        names = "127.0.0.1 localhost\n" + "".join(self._lines)
        for each in self.hosts.values():
            (each.folder / "hosts").write_text(names)
        return host

    # --- what the switch loses --------------------------------------------------------------

    def cut(self, one: Host, other: Host | None = None) -> None:
        """Nothing gets through between the two, or between `one` and anybody. Nobody is told."""
        if other is None:
            self.switch.network("ip", "link", "set", self._ports[one.name], "nomaster")
            return
        for here, there in ((one, other), (other, one)):
            neighbour = ["ip", "neigh", "replace", there.address, "dev", "eth0"]
            here.network(*neighbour, "lladdr", _NOBODY, "nud", "permanent")

    def heal(self, one: Host, other: Host | None = None) -> None:
        """As it was before `cut` of the same."""
        if other is None:
            self.switch.network("ip", "link", "set", self._ports[one.name], "master", "br0")
            return
        for here, there in ((one, other), (other, one)):
            here.network("ip", "neigh", "del", there.address, "dev", "eth0")

    # --- its end ----------------------------------------------------------------------------

    def close(self) -> None:
        self.recorder.close()
        for host in [*self.hosts.values(), self.switch]:
            host.kill()

    # --- small parts ------------------------------------------------------------------------

    def _plug(self, host: Host, number: int, port: str) -> None:
        """Lay a cable between the host and the switch."""
        link = ["ip", "link", "add", port, "type", "veth", "peer", "name", "eth0"]
        self.switch.network(*link, "netns", str(host.init))
        self.switch.network("ip", "link", "set", port, "master", "br0", "up")
        host.network("ip", "link", "set", "lo", "up")
        host.network("ip", "address", "add", f"{host.address}/24", "dev", "eth0")
        host.network("ip", "address", "add", f"{NETWORK_V6}:{number}/64", "dev", "eth0", "nodad")
        host.network("ip", "link", "set", "eth0", "up")
        host.network("ip", "route", "add", "default", "via", SWITCH)
        host.network("ip", "-6", "route", "add", "default", "via", f"{NETWORK_V6}:1")


def _switch() -> Plan:
    up = ["ip", "link", "set"]
    return Plan(
        "switch",
        kernel={"net.ipv4.ip_forward": "1", "net.ipv6.conf.all.forwarding": "1"},
        commands=[
            ["ip", "link", "add", "br0", "type", "bridge"],
            [*up, "br0", "up"],
            [*up, "lo", "up"],
            ["ip", "address", "add", f"{SWITCH}/24", "dev", "br0"],
            ["ip", "address", "add", f"{NETWORK_V6}:1/64", "dev", "br0", "nodad"],
        ],
    )


def _plan(name: str, folder: Path, own: Sequence[str], shared: Sequence[str], dns: str) -> Plan:
    (folder / "hosts").touch()
    (folder / "resolv.conf").write_text(f"nameserver {dns}\noptions timeout:1 attempts:1\n")
    binds = [(str(folder / file), f"/etc/{file}", True) for file in ("hosts", "resolv.conf")]
    # /tmp last: the other folders lie in it.
    for target in sorted(own, key=lambda target: target == "/tmp"):
        source = folder / target.strip("/").replace("/", "-")
        source.mkdir()
        source.chmod(0o1777 if target == "/tmp" else 0o755)  # whatever the umask
        for below in shared:
            if Path(below).is_relative_to(target):
                inner = source / Path(below).relative_to(target)
                inner.mkdir(parents=True)
                binds.append((below, str(inner), True))
        binds.append((str(source), target, False))
    return Plan(name, binds=binds)


@contextmanager
def lab() -> Iterator[Lab]:
    """Raises LabError where `missing()` says why."""
    if why := missing():
        raise LabError(why)
    _sweep()
    me = kin.read(os.getpid())
    assert me is not None
    folder = Path(tempfile.mkdtemp(prefix=f"{_PREFIX}{me.pid}-{me.start_time}-", dir="/tmp"))
    net = None
    try:
        net = Lab(folder)
        yield net
    finally:
        if net is not None:
            net.close()
        shutil.rmtree(folder, ignore_errors=True)


def _sweep() -> None:
    """Folders of labs that were killed: their hosts are gone by themselves."""
    for folder in Path("/tmp").glob(f"{_PREFIX}*"):
        pid, start_time = folder.name.removeprefix(_PREFIX).split("-")[:2]
        owner = kin.read(int(pid))
        if owner is None or owner.start_time != int(start_time):
            shutil.rmtree(folder, ignore_errors=True)
