"""Every connection and datagram that a host sends out, seen on its cable into the switch.

No program on a host can hide one from it: the kernel of the host has nothing to do with it.
"""

import ipaddress
import os
import select
import socket
import struct
import threading
import time
from ctypes import addressof, create_string_buffer
from dataclasses import dataclass
from pathlib import Path

from tests.lab.host import Host
from tests.lab.spaces import NETWORK, within

ICMP, TCP, UDP = 1, 6, 17
DNS_PORT = 53
_ALL, _ATTACH_FILTER, _OUTGOING = 3, 26, 4  # ETH_P_ALL, SO_ATTACH_FILTER, PACKET_OUTGOING
_IPV4, _IPV6 = 0x0800, 0x86DD

# Classic BPF over an Ethernet frame: (code, jump if true, jump if false, operand). It passes the
# first packet of a TCP connection (SYN without ACK), and what else IPv4 carries; of IPv6 first
# packets and UDP, since neighbours find each other by other means.
_FILTER = (
    (0x28, 0, 0, 12),  # 0: kind of the frame
    (0x15, 0, 6, _IPV4),  # 1: else 8
    (0x30, 0, 0, 23),  # 2: protocol
    (0x15, 0, 11, TCP),  # 3: else 15
    (0xB1, 0, 0, 14),  # 4: length of the IPv4 header
    (0x50, 0, 0, 27),  # 5: flags of TCP
    (0x54, 0, 0, 0x12),  # 6: SYN and ACK alone
    (0x15, 7, 8, 0x02),  # 7: 15, else 16
    (0x15, 0, 7, _IPV6),  # 8: else 16
    (0x30, 0, 0, 20),  # 9: next header
    (0x15, 4, 0, UDP),  # 10: 15
    (0x15, 0, 4, TCP),  # 11: else 16
    (0x30, 0, 0, 67),  # 12: flags of TCP
    (0x54, 0, 0, 0x12),  # 13
    (0x15, 0, 1, 0x02),  # 14: 15, else 16
    (0x06, 0, 0, 0xFFFF),  # 15: pass
    (0x06, 0, 0, 0),  # 16: drop
)


@dataclass(frozen=True)
class Sent:
    """`name` is what a DNS query asks for; `program` the sender's command line, where it was
    still there to be seen (looked up once for each target)."""

    at: float  # Unix time
    host: str
    protocol: str  # "tcp", "udp", "dns" (over UDP), or "ip-<number>"
    address: str
    port: int
    name: str = ""
    program: str = ""

    def __str__(self) -> str:
        asked = f" for {self.name}" if self.name else ""
        by = f" by {self.program}" if self.program else ""
        return f"{self.host} -> {self.protocol} {self.address} port {self.port}{asked}{by}"


class Recorder:
    """Of all hosts that it was told to `follow`, until it is closed.

    `switch` is a process in whose network the cables end.
    """

    def __init__(self, switch: int) -> None:
        self._hosts: dict[str, Host] = {}
        self._sent: list[Sent] = []
        self._programs: dict[tuple[str, str, str, int], str] = {}
        self._socket = within(switch, _listening, NETWORK)
        self._end, self._over = os.pipe()
        self._thread = threading.Thread(target=self._run, name="recorder", daemon=True)
        self._thread.start()

    def follow(self, port: str, host: Host) -> None:
        """What comes out of the cable at this port of the switch is sent by `host`."""
        self._hosts[port] = host

    def sent(self, host: Host | None = None) -> list[Sent]:
        """So far, in its order; of one host, or of all."""
        return [one for one in list(self._sent) if host is None or one.host == host.name]

    def close(self) -> None:
        if self._over >= 0:
            os.close(self._over)
            self._over = -1
            self._thread.join()
            os.close(self._end)
            self._socket.close()

    def _run(self) -> None:
        poll = select.poll()  # `select` knows no descriptors from 1024 on
        for descriptor in (self._socket.fileno(), self._end):
            poll.register(descriptor, select.POLLIN)
        while True:
            ready = {descriptor for descriptor, _ in poll.poll()}
            if self._socket.fileno() not in ready:
                return  # told to end, and all that came before is read
            frame, (port, _, kind, *_) = self._socket.recvfrom(1 << 16)
            host = self._hosts.get(port)
            if host is not None and kind != _OUTGOING:
                self._note(host, frame)

    def _note(self, host: Host, frame: bytes) -> None:
        read = _parsed(frame)
        if read is None:
            return
        protocol, address, source, port, name = read
        target = (host.name, protocol, address, port)
        if target not in self._programs:
            self._programs[target] = _program(host.init, source) if source else ""
        program = self._programs[target]
        self._sent.append(Sent(time.time(), host.name, protocol, address, port, name, program))


def _listening() -> socket.socket:
    """Every frame of this network that passes the filter."""
    program = b"".join(struct.pack("HBBI", *step) for step in _FILTER)
    kept = create_string_buffer(program, len(program))
    # Before a host is plugged in: nothing comes yet that the filter does not see.
    opened = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_ALL))
    described = struct.pack("HL", len(_FILTER), addressof(kept))
    opened.setsockopt(socket.SOL_SOCKET, _ATTACH_FILTER, described)
    opened.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
    return opened


def _parsed(frame: bytes) -> tuple[str, str, int, int, str] | None:
    """(protocol, address, our port, their port, what a DNS query asks for)"""
    kind = int.from_bytes(frame[12:14], "big")
    if kind == _IPV4:
        number, at = frame[23], 14 + 4 * (frame[14] & 15)
        address = str(ipaddress.ip_address(frame[30:34]))
    else:
        number, at = frame[20], 54
        address = str(ipaddress.ip_address(frame[38:54]))
    if number not in (TCP, UDP):
        # Of ICMP, what says that something could not be delivered is an answer.
        answers = number == ICMP and frame[at] == 3
        return None if answers else (f"ip-{number}", address, 0, 0, "")
    source, port = struct.unpack_from("!HH", frame, at)
    if number == TCP:
        return "tcp", address, source, port, ""
    if port != DNS_PORT:
        return "udp", address, source, port, ""
    return "dns", address, source, port, _question(frame[at + 8 :])


def _question(query: bytes) -> str:
    """The name that a DNS query asks for; as much of it as there is."""
    labels, at = [], 12
    while at < len(query) and (length := query[at]):
        labels.append(query[at + 1 : at + 1 + length].decode("ascii", "replace"))
        at += 1 + length
    return ".".join(labels)


def _program(init: int, port: int) -> str:
    """The command line of who holds that port of a host; empty where it cannot be found."""
    wanted = {f"socket:[{inode}]" for inode in _inodes(init, port)}
    if not wanted:
        return ""
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and _holds(entry, wanted):
            try:
                return (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode().strip()[:200]
            except OSError:
                return ""
    return ""


def _inodes(init: int, port: int) -> set[str]:
    found = set()
    for table in ("tcp", "tcp6", "udp", "udp6"):
        try:
            lines = Path(f"/proc/{init}/net/{table}").read_text().splitlines()[1:]
        except OSError:
            continue
        rows = [line.split() for line in lines]
        found |= {row[9] for row in rows if int(row[1].rpartition(":")[2], 16) == port}
    return found - {"0"}


def _holds(process: Path, sockets: set[str]) -> bool:
    try:
        return any(os.readlink(held) in sockets for held in (process / "fd").iterdir())
    except OSError:
        return False
