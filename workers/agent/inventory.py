"""What this machine is and has: read from the kernel and from the GPU driver."""

import contextlib
import os
import platform
import re
import shutil
import socket
from collections.abc import Sequence
from pathlib import Path

from controlplane.fleet import wire
from workers.agent.health import nvml
from workers.agent.health.cards import Reading
from workers.agent.settings import SettingError, Settings

CPU_MEMORY_MIN_BYTES = 2 << 30  # below it, a share of a CPU serves nothing
KNOWN_GPUS = "gpus.json"  # in the agent's directory: which GPUs it has seen
_SERIAL = Path("/sys/class/dmi/id/product_serial")
# Readings of memory limits above this mean "none".
_UNLIMITED = 1 << 60


def collect(
    settings: Settings,
    *,
    walls: Sequence[wire.Wall] = (),
    missing_walls: dict[str, str] | None = None,
    engines: Sequence[str] = (),
    containers: str = "",
) -> wire.Inventory:
    """The node's inventory. Blocks: the GPU tool may take seconds. Raises SettingError."""
    memory = memory_bytes()
    devices, reading = _devices(settings, memory)
    return wire.Inventory(
        hostname=socket.gethostname(),
        os=_os_name(),
        kernel=platform.release(),
        cpu_model=_cpu_model(),
        cpu_count=cpu_count(),
        memory_bytes=memory,
        disk_free_bytes=_disk_free(settings.cache),
        python=platform.python_version(),
        devices=devices,
        driver=reading.driver,
        cuda=reading.cuda,
        serial=machine_serial(),
        walls=list(walls),
        missing_walls=dict(missing_walls or {}),
        engines=list(engines),
        containers=containers,
        shares=True,
    )


def same(one: wire.Inventory | None, other: wire.Inventory) -> bool:
    """Whether `other` is worth no new report: free disk space matters by the 5 GiB."""
    if one is None:
        return False
    step = 5 << 30
    if abs(one.disk_free_bytes - other.disk_free_bytes) >= step:
        return False
    fields = [name for name in one.__struct_fields__ if name != "disk_free_bytes"]
    return all(getattr(one, name) == getattr(other, name) for name in fields)


def kind(product: str) -> str:
    """A device kind from a product name: "NVIDIA H200" -> "nvidia-h200"."""
    words = re.sub(r"[^a-z0-9]+", "-", product.lower()).strip("-")
    return words if words.startswith("nvidia") else f"nvidia-{words}"


def gpus(reading: Reading) -> list[wire.DeviceInfo]:
    """The devices of a reading; one that the driver gave up is there, and unhealthy."""
    return [
        wire.DeviceInfo(
            index=card.index,
            kind=kind(card.name) if card.name else wire.LOST_GPU,
            name=card.name or "GPU that does not answer",
            memory_bytes=card.memory_bytes,
            uuid=card.uuid,
            serial=card.serial,
            healthy=not card.error,
        )
        for card in reading.cards
    ]


def machine_serial() -> str:
    """The serial number of the machine: for root alone, and where it is a machine."""
    try:
        return _SERIAL.read_text().strip()[:100]
    except OSError:
        return ""


def cpu_devices(count: int, memory: int) -> list[wire.DeviceInfo]:
    """`count` equal shares of this machine's CPU and memory."""
    model = _cpu_model()
    return [
        wire.DeviceInfo(index=i, kind="cpu", name=f"{model} share", memory_bytes=memory // count)
        for i in range(count)
    ]


def cpu_count() -> int:
    return len(os.sched_getaffinity(0))


def memory_bytes() -> int:
    """The machine's memory, or less where a control group allows less."""
    found = [_UNLIMITED]
    with contextlib.suppress(OSError):
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemTotal:"):
                found.append(int(line.split()[1]) << 10)
    for limit in (
        "/sys/fs/cgroup/memory.max",
        "/sys/fs/cgroup/memory/memory.limit_in_bytes",
    ):
        with contextlib.suppress(OSError, ValueError):
            found.append(int(Path(limit).read_text()))
    return min(found)


def _devices(settings: Settings, memory: int) -> tuple[list[wire.DeviceInfo], Reading]:
    if settings.devices:
        match = re.fullmatch(r"cpu:(\d{1,3})", settings.devices)
        if match is None or int(match[1]) < 1:
            raise SettingError(
                f"STOA_AGENT_DEVICES={settings.devices!r}: expected cpu:N, or nothing"
            )
        return cpu_devices(int(match[1]), memory), Reading()
    reading = nvml.read() or Reading()
    if reading.cards:
        return gpus(reading), reading
    if reading.error and (settings.directory / KNOWN_GPUS).exists():
        return [], reading  # its GPUs are away: nobody wants its CPU instead
    count = max(1, min(cpu_count(), memory // CPU_MEMORY_MIN_BYTES))
    return cpu_devices(count, memory), reading


def _os_name() -> str:
    with contextlib.suppress(OSError):
        return platform.freedesktop_os_release().get("PRETTY_NAME", platform.system())
    return platform.system()


def _cpu_model() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            name, _, value = line.partition(":")
            if name.strip() == "model name":
                return value.strip()
    return platform.machine()


def _disk_free(directory: Path) -> int:
    while not directory.exists():
        directory = directory.parent
    return shutil.disk_usage(directory).free
