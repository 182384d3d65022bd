"""The first endpoint of a new installation: which model, how it starts, what it cost."""

import os
import subprocess
import time
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx

from controlplane.fleet import engines
from workers.agent import environment, models, walls
from workers.local.api import Api
from workers.local.chat import Answer
from workers.local.screen import Screen

NAME = "hello"
HUB_MODEL = "Qwen/Qwen2.5-0.5B-Instruct"
HUB_REVISION = "7ae557604adf67be50417f59c2c2f167def9a775"
START_TIMEOUT_S = 600
BILL_TIMEOUT_S = 60


class DemoError(Exception):
    """The first endpoint did not come up; the message says why."""


@dataclass(frozen=True)
class Model:
    name: str  # a hub id or an absolute path
    revision: str
    label: str


def device_kind() -> str:
    """What this machine offers: NVIDIA GPUs where their driver answers, else its CPU.

    STOA_AGENT_DEVICES=cpu:N makes its agent offer the CPU alone.
    """
    if os.environ.get("STOA_AGENT_DEVICES", "").startswith("cpu:"):
        return "cpu"
    try:
        query = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
        found = subprocess.run(query, capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return "cpu"
    return "nvidia-gpu" if found.returncode == 0 and found.stdout.strip() else "cpu"


def ensure_environment(screen: Screen) -> environment.Environment:
    """The engine for this machine, from the cache or installed now."""
    name = engines.of("vllm").environment_for(device_kind())
    cache = environment.default_cache()
    found = environment.locate(name, cache)
    if found is None:
        with screen.bar(f"engine {name} (once a machine)") as progress:
            found = environment.install(name, cache, progress=progress)
    return found


def say_missing_walls(engine: environment.Environment, screen: Screen) -> None:
    """What will not separate one engine from another here, and why."""
    survey = walls.survey((engine.root, engine.base))
    for wall, why in survey.missing.items():
        screen.say(f"  ! wall missing ({wall}): {why}")
    if survey.missing:
        screen.say("    this node serves one organization alone until it has them all")


def choose_model(screen: Screen) -> Model:
    """MODEL as a person asked, else a small real one from the hub, else one made here."""
    if asked := os.environ.get("MODEL"):
        name, _, revision = asked.partition("@")
        return Model(name, revision, f"{asked} (MODEL)")
    if _hub_reachable():
        return Model(HUB_MODEL, HUB_REVISION, f"{HUB_MODEL} from the hub, revision pinned")
    path = _tiny_model(screen)
    return Model(
        str(path), "", "a tiny model made here: no hub can be reached, its words are noise"
    )


def ensure_endpoint(api: Api, project: str, model: Model, screen: Screen) -> dict[str, Any]:
    """The endpoint `hello`, made unless a former run made it, and started."""
    pool = _await_devices(api)
    known = api.get("/endpoints", project=project, name=NAME)["data"]
    if known:
        endpoint: dict[str, Any] = known[0]
        screen.step(f"endpoint {NAME}: {endpoint['model']} (from before)")
        if endpoint["status"] in ("stopped", "failed"):
            endpoint = api.post(f"/endpoints/{endpoint['id']}/start")
        return endpoint
    screen.step(f"model: {model.label}")
    body = {
        "project": project,
        "name": NAME,
        "model": model.name,
        "revision": model.revision,
        "device_kind": pool["devices"][0]["kind"],
        "engine_args": {"max_model_len": 2048, "max_num_seqs": 32},
    }
    endpoint = api.create("/endpoints", body, idempotency_key=f"up-{project}-{model.name}")
    return endpoint


def follow_start(api: Api, endpoint_id: str, screen: Screen, since: datetime) -> None:
    """Show each phase with its seconds until a replica is ready; DemoError if it fails.

    What failed before `since` is history: this start tries again.
    """
    shown = set()
    for name, data in api.events(f"/endpoints/{endpoint_id}/events", timeout_s=START_TIMEOUT_S):
        if name == "status" and data["status"] == "ready":
            return
        if name != "transition" or data["id"] in shown:
            continue
        shown.add(data["id"])
        if data["from_state"]:
            tier = f" ({data['start_tier']})" if data.get("start_tier") else ""
            screen.step(f"replica {data['from_state']} → {data['to_state']}{tier}", data["seconds"])
        new = datetime.fromisoformat(data["at"]) >= since
        if new and data["to_state"] == "failed" and data["reason"] != "engine_missing":
            raise DemoError(f"{data['reason']}: {data['detail']}")
    raise DemoError(f"the endpoint was not ready within {START_TIMEOUT_S} s")


def await_bill(api: Api, endpoint: dict[str, Any], answer: Answer) -> str:
    """Wait until the request stands in the books; what it and the endpoint cost, in words."""
    deadline = time.monotonic() + BILL_TIMEOUT_S
    while True:
        booked = api.get("/usage", request=answer.request_id)["data"]
        if booked:
            break
        if time.monotonic() > deadline:
            raise DemoError(f"request {answer.request_id} is not in the books")
        time.sleep(0.1)
    costs = api.get("/costs", endpoint=endpoint["id"])
    charge, tokens = (Decimal(costs[f"{name}_exact"]) for name in ("charge", "attribution"))
    return (
        f"{answer.input_tokens} tokens in, {answer.output_tokens} out in {answer.total_s:.2f} s; "
        f"this month: seconds {charge:.6f} {costs['currency']}, egress 0 "
        f"(tokens, which a dedicated endpoint is not charged for, {tokens:.6f})"
    )


# --- small parts ---------------------------------------------------------------------


def _hub_reachable() -> bool:
    if os.environ.get("HF_HUB_OFFLINE"):
        return False
    hub = os.environ.get("STOA_HUB_URL") or "https://huggingface.co"
    try:
        url = f"{hub}/{HUB_MODEL}/resolve/{HUB_REVISION}/config.json"
        return httpx.head(url, timeout=4, follow_redirects=True).status_code == 200
    except httpx.HTTPError:
        return False


def _tiny_model(screen: Screen) -> Path:
    engine = ensure_environment(screen)
    try:
        with screen.timed("tiny model"):
            return models.tiny(environment.default_cache(), engine) / "model"
    except models.ModelError as error:
        raise DemoError(str(error)) from error


def _await_devices(api: Api) -> dict[str, Any]:
    """The pool in which this machine's node has appeared."""
    deadline = time.monotonic() + 60
    while True:
        for pool in api.get("/pools")["data"]:
            if pool["devices"]:
                found: dict[str, Any] = pool
                return found
        if time.monotonic() > deadline:
            raise DemoError("no node has joined: see the agent's log")
        time.sleep(0.1)
