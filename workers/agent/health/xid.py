"""What an XID event of NVIDIA's driver means for whoever runs the machine. A closed table.

From the column "immediate action" of NVIDIA's Xid catalog (docs.nvidia.com/deploy/xid-errors,
"Analyzing Xid Errors with the Xid Catalog"). What the catalog lets an application be restarted
for, or ignore, is `APPLICATION`; what it wants support or a workflow for, without saying what to
do first, is `RESET`, the mildest that takes the GPU out of service; 64 and 157 say that a GPU has
no spare memory to heal itself with, so it is `REPLACE`. A number that is not in the table is
`UNKNOWN`: somebody should look, and nothing is done by itself.
"""

from collections.abc import Iterator
from enum import StrEnum

from controlplane.fleet.wire import Finding, Severity


class Meaning(StrEnum):
    APPLICATION = "application"  # of the program that ran on it, or of no consequence
    RESET = "reset"  # the GPU has to be reset
    REBOOT = "reboot"  # the machine has to be restarted
    REPLACE = "replace"  # the GPU has to be replaced
    UNKNOWN = "unknown"


def _spread(*spans: int | tuple[int, int]) -> Iterator[int]:
    for span in spans:
        first, last = span if isinstance(span, tuple) else (span, span)
        yield from range(first, last + 1)


_APPLICATION = _spread(
    *(8, 11, 13, 14, 25, 31, 32, (37, 41), (43, 45), 60, 63, (66, 72), (75, 77), 80, (82, 86)),
    *(88, 89, (92, 94), (96, 107), 121, (126, 135), 137, 139, 141, (152, 154), 159, 161),
)
_RESET = _spread(
    *(46, 48, 61, 62, 74, 95, 109, 110, 119, 120, 136, 140, (143, 150), 155, 156, 158, 162)
)
_REBOOT = _spread(54, 79, 151, 160)
_REPLACE = _spread(64, 157)

TABLE: dict[int, Meaning] = {
    **dict.fromkeys(_APPLICATION, Meaning.APPLICATION),
    **dict.fromkeys(_RESET, Meaning.RESET),
    **dict.fromkeys(_REBOOT, Meaning.REBOOT),
    **dict.fromkeys(_REPLACE, Meaning.REPLACE),
}

# How long after its last event a finding holds. A restart of the machine empties the kernel's
# log, and with it every one of them.
HOLDS_S = {
    Meaning.APPLICATION: 600.0,
    Meaning.RESET: 3600.0,
    Meaning.REBOOT: float("inf"),
    Meaning.REPLACE: float("inf"),
    Meaning.UNKNOWN: 3600.0,
}

_SEVERITY = {
    Meaning.APPLICATION: Severity.INFO,
    Meaning.UNKNOWN: Severity.WARNING,
}
_CURE = {
    Meaning.APPLICATION: "none is needed; if it comes again with every program, run dcgmi diag",
    Meaning.RESET: "reset the GPU (nvidia-smi --gpu-reset -i N) once nothing runs on it",
    Meaning.REBOOT: "restart the machine; if it comes again, check power and seat of the GPU",
    Meaning.REPLACE: "replace the GPU",
    Meaning.UNKNOWN: "look the number up in NVIDIA's Xid catalog",
}


def meaning(code: int) -> Meaning:
    return TABLE.get(code, Meaning.UNKNOWN)


def finding(code: int, device: int | None, text: str, times: int = 1) -> Finding:
    """What an event of this number is reported as: one check for each meaning."""
    means = meaning(code)
    often = f" ({times} times)" if times > 1 else ""
    return Finding(
        check=f"gpu_xid_{means}",
        severity=_SEVERITY.get(means, Severity.CRITICAL),
        device=device,
        text=f"XID {code}{often}: {text}"[:300],
        cure=_CURE[means],
    )
