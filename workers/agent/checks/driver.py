"""NVIDIA's driver against what each engine environment needs, and the GPUs' fabric."""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from workers.agent import environment
from workers.agent.checks.finding import Finding
from workers.agent.health.cards import Card, Reading

# The oldest driver that runs what a CUDA of that major version was built for (minor version
# compatibility): docs.nvidia.com/deploy/cuda-compatibility/minor-version-compatibility.html
OLDEST_DRIVER = {11: 450, 12: 525, 13: 580}

_RUNTIME = re.compile(r"^nvidia-cuda-runtime(?:-cu\d+)?==(\d+)\.(\d+)", re.MULTILINE)
_SWITCHES = Path("/proc/driver/nvidia-nvswitch/devices")
_MANAGER = "nv-fabricmanager"


def needs() -> dict[str, tuple[int, int]]:
    """Of each engine environment for GPUs, the CUDA that its lock pins."""
    found = {}
    for name in environment.RECIPES:
        lock = environment.LOCKS / f"engine-{name}.lock"
        pinned = _RUNTIME.search(lock.read_text()) if lock.exists() else None
        if pinned is not None:
            found[environment.title(name)] = (int(pinned[1]), int(pinned[2]))
    return found


def findings(
    reading: Reading | None,
    *,
    wanted: Mapping[str, tuple[int, int]] | None = None,
    switches: Path = _SWITCHES,
    running: Iterable[str] | None = None,
) -> list[Finding]:
    """`running`: the names of the machine's processes."""
    if reading is None:
        return [Finding("driver", True, "no NVIDIA driver: the devices are shares of the CPU")]
    if reading.error:
        cure = "see dmesg and nvidia-smi; load the driver (modprobe nvidia), or install it anew"
        return [Finding("driver", False, reading.error, cure, refuses=True)]
    found = [
        _against(engine, cuda, reading)
        for engine, cuda in (needs() if wanted is None else wanted).items()
    ]
    found += _links(reading.cards)
    return found + _fabric(reading.cards, switches, _commands() if running is None else running)


def _against(engine: str, cuda: tuple[int, int], reading: Reading) -> Finding:
    said = f"driver {reading.driver} (CUDA {reading.cuda // 1000}.{reading.cuda % 1000 // 10})"
    what = f"{engine} is built for CUDA {cuda[0]}.{cuda[1]}"
    oldest = OLDEST_DRIVER.get(cuda[0])
    branch = re.match(r"\d+", reading.driver)
    if oldest is None or branch is None:
        text = f"{what}: whether {said} is new enough is not known here"
        cure = "add the oldest driver of that CUDA to OLDEST_DRIVER (workers/agent/checks)"
        return Finding("driver", False, text, cure)
    if int(branch[0]) >= oldest:
        return Finding("driver", True, f"{said}; {what}, which needs {oldest} or newer")
    cure = f"install a driver of branch {oldest} or newer (nvidia-driver-{oldest}), then restart"
    text = f"{said} is too old: {what}, which needs {oldest} or newer"
    return Finding("driver", False, text, cure, refuses=True)


def _links(cards: list[Card]) -> list[Finding]:
    if len(cards) < 2:
        return []
    down = [
        f"GPU {c.index} link {link.index}" for c in cards for link in c.links if not link.active
    ]
    if down:
        cure = "see nvidia-smi nvlink --status; seat the bridges, or restart the fabric manager"
        return [Finding("fabric", False, f"NVLinks that are down: {', '.join(down)}", cure)]
    counts = sorted({len(card.links) for card in cards})
    words = "no NVLink: they speak over PCIe" if counts == [0] else f"NVLinks each: {counts}"
    return [Finding("fabric", True, f"{len(cards)} GPUs, {words}, none down")]


def _fabric(cards: list[Card], switches: Path, running: Iterable[str]) -> list[Finding]:
    """GPUs behind NVSwitches compute nothing before the fabric manager has joined them."""
    if len(cards) < 2 or not switches.exists() or not any(switches.iterdir()):
        return []
    if any(_MANAGER.startswith(name) for name in running if name.startswith("nv-fabric")):
        return [Finding("fabric manager", True, "it runs, and the machine has NVSwitches")]
    text = "the machine has NVSwitches and no fabric manager runs: no engine could start"
    cure = "install the nvidia-fabricmanager of the driver's version and start its service"
    return [Finding("fabric manager", False, text, cure, refuses=True)]


def _commands() -> list[str]:
    found = []
    for path in Path("/proc").glob("[0-9]*/comm"):
        try:
            found.append(path.read_text().strip())
        except OSError:
            continue
    return found
