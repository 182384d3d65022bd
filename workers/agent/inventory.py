"""What this machine is and has: read from the kernel and from the GPU driver's own tool."""

import contextlib
import csv
import os
import platform
import re
import shutil
import socket
import subprocess
from collections.abc import Sequence
from pathlib import Path

from controlplane.fleet import wire
from workers.agent.settings import SettingError, Settings

CPU_MEMORY_MIN_BYTES = 2 << 30  # below it, a share of a CPU serves nothing
NVIDIA_SMI_TIMEOUT_S = 30
_FIELDS = "index,name,memory.total,uuid,driver_version"
# Readings of memory limits above this mean "none".
_UNLIMITED = 1 << 60


def collect(
    settings: Settings,
    *,
    walls: Sequence[wire.Wall] = (),
    missing_walls: dict[str, str] | None = None,
    engines: Sequence[str] = (),
) -> wire.Inventory:
    """The node's inventory. Blocks: the GPU tool may take seconds. Raises SettingError."""
    memory = memory_bytes()
    devices, driver = _devices(settings.devices, memory)
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
        driver=driver,
        walls=list(walls),
        missing_walls=dict(missing_walls or {}),
        engines=list(engines),
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


def parse_nvidia(output: str) -> tuple[list[wire.DeviceInfo], str]:
    """Devices and driver version from nvidia-smi's CSV (`_FIELDS`, noheader, nounits: MiB)."""
    devices, driver = [], ""
    for row in csv.reader(output.splitlines(), skipinitialspace=True):
        if len(row) != 5 or not row[0].isdigit():
            continue
        index, product, mebibytes, uuid, driver = (field.strip() for field in row)
        known = mebibytes.isdigit()  # a GPU that fell off the bus says "[Unknown Error]"
        devices.append(
            wire.DeviceInfo(
                index=int(index),
                kind=kind(product),
                name=product,
                memory_bytes=int(mebibytes) << 20 if known else 0,
                uuid=uuid,
                healthy=known,
            )
        )
    return devices, driver


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


def _devices(setting: str, memory: int) -> tuple[list[wire.DeviceInfo], str]:
    if setting:
        match = re.fullmatch(r"cpu:(\d{1,3})", setting)
        if match is None or int(match[1]) < 1:
            raise SettingError(f"STOA_AGENT_DEVICES={setting!r}: expected cpu:N, or nothing")
        return cpu_devices(int(match[1]), memory), ""
    if (tool := shutil.which("nvidia-smi")) is not None:
        devices, driver = parse_nvidia(_nvidia(tool))
        if devices:
            return devices, driver
    count = max(1, min(cpu_count(), memory // CPU_MEMORY_MIN_BYTES))
    return cpu_devices(count, memory), ""


def _nvidia(tool: str) -> str:
    command = [tool, f"--query-gpu={_FIELDS}", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=NVIDIA_SMI_TIMEOUT_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""  # a driver that hangs: the node has no GPU that anybody could use
    return done.stdout


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
