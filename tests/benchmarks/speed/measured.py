"""Measured latencies beside predicted ones, row by row.

Factors were fitted to the rows that say so; the others were not looked at for them.
"""

import json
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from controlplane.placement import devices
from controlplane.placement.memory.engine import Arguments, Behaviour
from controlplane.placement.memory.predict import served
from controlplane.placement.models import reading
from controlplane.placement.speed import factors, work
from controlplane.placement.speed.factors import Class
from controlplane.placement.speed.load import Job, Load, Shape
from controlplane.placement.speed.machine import Machine, machine
from controlplane.placement.speed.simulation import Limits, Served, run

HERE = Path(__file__).parent
ROWS = HERE / "measured.json"
CONFIGS = (HERE / "configs", HERE.parent / "memory" / "configs")
VERSION = Behaviour((0, 15, 1))
AT_ONCE = 128  # of the open runs; their caches never filled
SPREAD = 0.3  # of lengths in such benchmarks
REQUESTS, SEED = 600, 7


@dataclass(frozen=True)
class Compared:
    """Milliseconds, means."""

    row: dict[str, Any]
    kind: Class
    tpot_ms: float
    ttft_ms: float
    margin: float

    @property
    def fitted(self) -> bool:
        return bool(self.row["fitted"])

    @property
    def off(self) -> float:
        """Predicted over measured seconds of a token, less one."""
        return self.tpot_ms / float(self.row["tpot_ms"]) - 1

    @property
    def ttft_off(self) -> float:
        return self.ttft_ms / float(self.row["ttft_ms"]) - 1

    @property
    def covered(self) -> bool:
        """Whether a token took no longer than the p95 of the prediction."""
        return float(self.row["tpot_ms"]) <= self.tpot_ms * (1 + self.margin)


def all_rows() -> list[Compared]:
    return [compared(row) for row in json.loads(ROWS.read_text())["rows"]]


def compared(row: dict[str, Any]) -> Compared:
    made, kind = _machine(row)
    shape = Shape(row["prompt"], row["output"], row.get("cached", 0.0), SPREAD)
    longest = int(4 * (row["prompt"] + row["output"]))
    if "rate" in row:
        limits = Limits(AT_ONCE, row["batched"], 1e9)
        asked = list(Load(row["rate"], shape).arrivals(row["rate"], REQUESTS, longest, SEED))
        found = sorted(run(made, limits, asked), key=lambda one: one.arrived_s)[REQUESTS // 10 :]
        ttft = 1000 * statistics.fmean(each.ttft_s for each in found)
        return Compared(row, kind, _tpot_ms(found), ttft, made.factors.margin)
    # Each of so many clients asks anew as soon as it has its answer: who is admitted has just come.
    limits = Limits(row["concurrency"], row["batched"], 1e9)
    found = run(made, limits, Job(1, shape).waiting(10 * row["concurrency"], longest, SEED))
    ttft = 1000 * statistics.fmean(each.first_s - each.admitted_s for each in found)
    return Compared(row, kind, _tpot_ms(found), ttft, made.factors.margin)


def _machine(row: dict[str, Any]) -> tuple[Machine, Class]:
    model = reading.read(configuration(row["model"]))
    arguments = Arguments(
        tensor_parallel_size=row["tp"],
        quantization=row.get("quantization"),
        enable_expert_parallel=row.get("ep", False),
        max_model_len=4096,
    )
    model = served(model, arguments)
    device = devices.known()[row["device"]]
    arguments = arguments.resolved(device, VERSION, model.max_position)
    load = work.count(model, arguments, device, VERSION)
    kind = factors.class_of(model)
    return machine(load, device, model.quantization, factors.factors(model, device)), kind


def configuration(name: str) -> dict[str, Any]:
    for folder in CONFIGS:
        if (file := folder / f"{name}.json").is_file():
            found: dict[str, Any] = json.loads(file.read_text())
            return found
    raise FileNotFoundError(f"a configuration of {name}")


def _tpot_ms(found: Sequence[Served]) -> float:
    """Of all tokens between first and last, as benchmarks take their mean."""
    longer = [each for each in found if each.output > 1]
    return 1000 * statistics.fmean(each.tpot_s or 0.0 for each in longer)


def text(found: Sequence[Compared]) -> str:
    lines = [f"{'':36}{'':10}{'token, ms':>22}{'':8}{'first, ms':>22}"]
    for each in found:
        row = each.row
        name = f"{row['model'][:26]} {row['device']} x {row['tp']}"
        use = "fitted" if each.fitted else "held out"
        first = f"{each.ttft_ms:10.0f} of {row['ttft_ms']:.0f}"
        lines.append(
            f"{name:36}{use:10}{each.tpot_ms:10.1f} of {row['tpot_ms']:6.1f}"
            f"{100 * each.off:+7.0f}%{first:>22}  {row['source']}"
        )
    return "\n".join(lines)
