"""LoRA adapters of an endpoint that serves: the whole way, through every death on it."""

import contextlib
import json
import os
import signal
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from tests.flows.conftest import Made
from tests.flows.stoa import Stoa, until
from workers.agent import kin

pytestmark = [pytest.mark.engine, pytest.mark.xdist_group("flows")]


class Lora:
    """The endpoint under test, with room for two adapters."""

    def __init__(self, stoa: Stoa, made: Made) -> None:
        self.stoa = stoa
        self.endpoint = made.ready(
            "lora",
            engine_args={"max_model_len": 2048, "max_loras": 2, "max_lora_rank": 8},
            scale_to_zero_timeout_s=10,
        )
        self.place = f"/endpoints/{self.endpoint['id']}/adapters"
        self.folder = Path(self.endpoint["model"]).parent / "adapter"

    def load(self, name: str, path: str = "") -> None:
        self.stoa.api.post(self.place, {"name": name, "path": path or str(self.folder)})

    def becomes(self, name: str, status: str) -> dict[str, Any]:
        def look() -> dict[str, Any] | None:
            with contextlib.suppress(httpx.TransportError, AssertionError):
                found: dict[str, Any] = self.stoa.api.get(f"{self.place}/{name}")
                return found if found["status"] == status else None
            return None

        found = until(look, within_s=120, what=f"{name} is {status}")
        assert found is not None
        return found

    def says(self, model: str, retries: int = 4) -> str:
        """A client tries again as long as the adapter is being loaded."""
        with self.stoa.client().with_options(max_retries=retries) as sdk:
            answer = sdk.completions.create(
                model=model, prompt="import os", max_tokens=8, temperature=0
            )
        return answer.choices[0].text

    def refused(self, model: str, code: str) -> bool:
        """Whether it is, for that reason; the gateway hears of news a moment after the API."""
        try:
            self.says(model, retries=0)
        except openai.APIStatusError as refusal:
            return refusal.code == code
        return False

    def is_refused(self, model: str, code: str) -> None:
        until(lambda: self.refused(model, code), what=f"{model} is refused with {code}")

    def replica(self) -> str:
        (replica,) = self.stoa.api.get(f"/endpoints/{self.endpoint['id']}")["replicas"]
        assert replica["state"] == "ready"
        return str(replica["id"])

    def engine(self) -> int:
        """The pid of its one engine, as the agent wrote it down."""
        record = self.stoa.var / "agent" / "replicas" / f"{self.replica()}.json"
        pid: int = json.loads(record.read_text())["running"]["pid"]
        return pid


def test_adapters_live_through_it_all(stoa: Stoa, made: Made) -> None:
    lora = Lora(stoa, made)
    replica, plain = lora.replica(), lora.says("lora")
    assert lora.refused("lora:noisy", "model_not_found")
    lora.load("noisy")
    lora.becomes("noisy", "loaded")
    noisy = lora.says("lora:noisy")
    assert noisy != plain == lora.says("lora")

    # One that cannot be loaded fails alone.
    lora.load("gone", "/nowhere/adapter")
    gone = lora.becomes("gone", "failed")
    assert gone["reason"] == "adapter_not_found"
    assert "Check the adapter's path" in gone["message"]
    lora.is_refused("lora:gone", "adapter_not_loaded")
    third = {"name": "third", "path": "org/third"}
    status, problem = stoa.api.refused(lora.place, third)
    assert (status, problem["code"]) == (422, "too_many_adapters")
    assert lora.replica() == replica  # no restart in all of this
    with httpx.Client(base_url=stoa.run["gateway_url"]) as http:
        body = {"lora_name": "x", "lora_path": "/etc", "model": "lora"}
        key = {"authorization": f"Bearer {stoa.run['api_key']}"}
        assert http.post("/v1/load_lora_adapter", json=body, headers=key).status_code == 404

    # The agent dies, and the wish changes meanwhile.
    agent = stoa.kill("agent")
    stoa.api.delete(f"{lora.place}/gone")
    lora.load("again")
    until(lambda: stoa.restarted("agent", agent), what="the agent is back")
    lora.becomes("again", "loaded")
    assert lora.says("lora:again") == noisy
    assert lora.replica() == replica

    # The engine dies: the next one has them before it is routable.
    engine = lora.engine()
    os.kill(engine, signal.SIGKILL)
    until(lambda: kin.read(engine) is None, what="the engine is gone")
    made.await_status(lora.endpoint["id"], "failed")
    made.await_status(lora.endpoint["id"], "ready")
    assert lora.replica() != replica
    assert [lora.says(f"lora:{name}") for name in ("noisy", "again")] == [noisy, noisy]

    # Asleep, and woken by who asks for the adapter.
    stoa.api.http.patch(f"/endpoints/{lora.endpoint['id']}", json={"min_replicas": 0})
    made.await_status(lora.endpoint["id"], "scaled_to_zero")
    assert lora.says("lora:noisy") == noisy
    stoa.api.delete(f"{lora.place}/noisy")
    lora.is_refused("lora:noisy", "model_not_found")
