"""Whether the machine runs out of memory."""

import re
from pathlib import Path

from controlplane.fleet.wire import Finding, Severity

LOW_SHARE, OUT_SHARE = 0.05, 0.02
STALLED_PERCENT = 10.0  # of the last minute in which nothing got on for want of memory
_STALLED = re.compile(r"^full .*avg60=([\d.]+)", re.MULTILINE)


def findings(proc: Path = Path("/proc")) -> list[Finding]:
    """From the kernel's figures under `proc`; none where it gives none."""
    try:
        table = (proc / "meminfo").read_text()
    except OSError:
        return []
    kib = {
        name: int(rest.split()[0])
        for name, _, rest in (line.partition(":") for line in table.splitlines())
        if rest.split() and rest.split()[0].isdigit()
    }
    total, free = kib.get("MemTotal", 0), kib.get("MemAvailable", 0)
    severity = judged(free, total, _stalled(proc))
    if severity is None:
        return []
    text = f"{free / (1 << 20):.1f} of {total / (1 << 20):.0f} GiB of memory can be had"
    cure = "see what holds it (ps aux --sort -rss); place less here"
    return [Finding(check="memory_pressure", severity=severity, text=text, cure=cure)]


def judged(free: float, total: float, stalled_percent: float) -> Severity | None:
    if total and free < total * OUT_SHARE:
        return Severity.CRITICAL
    low = total and free < total * LOW_SHARE
    return Severity.WARNING if low or stalled_percent >= STALLED_PERCENT else None


def _stalled(proc: Path) -> float:
    try:
        found = _STALLED.search((proc / "pressure" / "memory").read_text())
    except OSError:  # a kernel without pressure figures
        return 0.0
    return float(found[1]) if found else 0.0
