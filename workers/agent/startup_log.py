"""What vLLM prints while it starts, as numbers. Pure.

The lines are meant for people and change from version to version (placement.memory.startup_log has
the forms of its memory); what is not recognised stays None, and no start depends on it.
"""

import re
from collections.abc import Iterable

import msgspec

from controlplane.fleet import wire
from controlplane.placement.memory import startup_log as memory_log
from workers.agent.launcher.engine import STARTS

GIB = 1 << 30

# With a point: "Using FlashAttention version 3" is not the engine's.
_VERSION = re.compile(r"\bversion (\d+\.\S+)\s*$|LLM engine \(v([^)\s]+)\)")
_CHECKPOINT = re.compile(r"Checkpoint size: ([\d.]+) GiB")
_KV_BYTES_SET = re.compile(r"(?:set|Auto set) \(([\d.]+)/[\d.]+\) GiB for KV cache")
_SEQUENCES = re.compile(r"non-default args: .*'max_num_seqs': (\d+)")
_LENGTH = re.compile(r"Using max model len (\d+)")
# A line that may say any of it: logs are long, and few lines do.
_FIGURE = re.compile(r"GiB|GB|tokens|blocks|version|engine \(v|max_num_seqs|max model len")

# The last line of each of wire.START_STEPS that is said at all.
_STEPS = (
    ("spawned", re.compile(r"Initializing a V1 LLM engine")),
    ("loaded", re.compile(r"(?:Loading weights|Model loading) took ")),
)

# What vLLM puts before each line of one of its processes, and its logger before that.
_PREFIX = re.compile(r"^\(\w+ pid=\d+\)\s*(?:[A-Z]+ [\d-]+ [\d:]+ \[[^\]]*\]\s?)?")
_ERROR = re.compile(
    r"^(?:[\w.]+\.)?[A-Z]\w*(?:Error|Exception|Interrupt)\b|: error: |^stoa .* could not"
)
_NO_CAUSE = ("See root cause above", "Engine core proc", "EngineDeadError")


def parse(lines: Iterable[str]) -> wire.EngineReport:
    """The newest start in `lines`: a log may hold several, one after the other."""
    newest: list[str] = []
    for line in lines:
        if line.startswith("stoa ") and line.rstrip().endswith(STARTS):
            newest = []
        elif _FIGURE.search(line):
            newest.append(line)
    report = wire.EngineReport()
    for line in newest:
        if found := _VERSION.search(line):
            report.version = report.version or found[1] or found[2]
        elif found := _CHECKPOINT.search(line):
            report.weights_bytes = _bytes(float(found[1]))
        elif found := _KV_BYTES_SET.search(line):
            report.kv_cache_bytes = _bytes(float(found[1]))
        elif found := _LENGTH.search(line):
            report.max_model_len = int(found[1])
        elif found := _SEQUENCES.search(line):
            report.max_num_seqs = int(found[1])
    return _with(report, memory_log.read(newest))


def _with(report: wire.EngineReport, printed: memory_log.Printed) -> wire.EngineReport:
    """Of several ranks the fullest, as that decides."""
    return msgspec.structs.replace(
        report,
        weights_bytes=_bytes(printed.weights_gib) or report.weights_bytes,
        kv_cache_bytes=_bytes(printed.kv_gib) or report.kv_cache_bytes,
        kv_cache_tokens=printed.kv_tokens,
        max_concurrency=printed.concurrency,
        max_model_len=printed.max_model_len or report.max_model_len,
        activations_bytes=_bytes(printed.activations_gib),
        non_torch_bytes=_bytes(printed.non_torch_gib),
        graphs_bytes=_bytes(printed.graphs_gib),
        consumed_bytes=_bytes(printed.consumed_gib),
    )


def step(line: str) -> str | None:
    """Which of wire.START_STEPS this line ends."""
    return next((name for name, pattern in _STEPS if pattern.search(line)), None)


def complaint(lines: Iterable[str]) -> str:
    """What the newest start in `lines` says best went wrong; its last line, if nothing does."""
    errors: list[list[str]] = []
    last = ""
    for raw in lines:
        line = _PREFIX.sub("", raw.rstrip("\n"))
        if line.startswith("stoa ") and line.endswith(STARTS):
            errors, last = [], ""
            continue
        if _ERROR.search(line) and not any(part in line for part in _NO_CAUSE):
            errors.append([line.strip()])
        elif errors and len(errors[-1]) < 3 and line.startswith("  ") and line.strip():
            errors[-1].append(line.strip())  # pydantic says what is wrong below the error's name
        last = line.strip() or last
    return " ".join(errors[-1])[:600] if errors else last[:600]


def _bytes(gib: float | None) -> int | None:
    """None for what rounds to nothing: a size that small was not said."""
    return round((gib or 0.0) * GIB) or None
