"""A batch on a real vLLM: it wakes the endpoint, is orphaned half-way, and is complete."""

import json
from collections import Counter
from typing import Any

import openai
import pytest

from tests.flows.conftest import Made
from tests.flows.stoa import Stoa, until

pytestmark = [pytest.mark.engine, pytest.mark.xdist_group("flows")]

LINES = 24
TOKENS = 24


def line(number: int) -> dict[str, Any]:
    body = {
        "model": "nightly",
        "prompt": f"{number} import os",
        "max_tokens": TOKENS,
        "temperature": 0,
        "ignore_eos": True,
    }
    return {"custom_id": f"n{number}", "method": "POST", "url": "/v1/completions", "body": body}


def counts(sdk: openai.OpenAI, batch_id: str) -> int:
    found = sdk.batches.retrieve(batch_id).request_counts
    assert found is not None
    return found.completed


def forecast_kept(forecast: Any) -> None:
    """Of a CPU nothing is known before; its own work says the rest, and then what it took."""
    (part,) = forecast["models"]
    assert part["predicted"] == {"missing": "there is no speed for cpu"}
    canary, actual = part["canary"], part["actual"]
    assert canary["seconds"] == 0.5 and canary["runtime_s"]["p50"] >= 0.5
    assert forecast["runtime_s"] == canary["runtime_s"]
    assert forecast["cost"]["currency"] == actual["cost"]["currency"] == "EUR"
    assert (actual["requests"], actual["output_tokens"]) == (LINES, LINES * TOKENS)
    assert actual["prompt_tokens"] > 0
    print(f"canary {canary['runtime_s']} s, took {actual['runtime_s']} s")


def test_a_batch_wakes_its_endpoint_and_survives_its_runner(stoa: Stoa, made: Made) -> None:
    endpoint = made("nightly", min_replicas=0)
    assert endpoint["status"] == "scaled_to_zero"
    content = b"\n".join(json.dumps(line(n)).encode() for n in range(LINES))
    with stoa.client() as sdk:
        until(lambda: any(one.id == "nightly" for one in sdk.models.list()), what="it is known")
        file = sdk.files.create(file=("night.jsonl", content), purpose="batch")
        batch = sdk.batches.create(
            input_file_id=file.id, endpoint="/v1/completions", completion_window="24h"
        )
        until(lambda: counts(sdk, batch.id) >= 2, within_s=120, what="it is under way")
        stoa.kill("batches")
        hello = sdk.completions.create(model="nightly", prompt="import", max_tokens=2)
        assert hello.usage is not None and hello.usage.completion_tokens == 2
        ended = until(
            lambda: next(
                (one for one in [sdk.batches.retrieve(batch.id)] if one.completed_at), None
            ),
            within_s=120,
            every_s=0.3,
            what="it is complete",
        )
        assert ended is not None and ended.status == "completed"
        assert ended.output_file_id is not None and ended.error_file_id is None
        text = sdk.files.content(ended.output_file_id).text
        sdk.files.delete(file.id)
    forecast_kept(ended.model_extra["forecast"] if ended.model_extra else None)
    answers = [json.loads(one) for one in text.splitlines()]
    assert Counter(one["custom_id"] for one in answers) == Counter(f"n{n}" for n in range(LINES))
    for one in answers:
        body = one["response"]["body"]
        assert body["model"] == "nightly"
        assert body["usage"]["completion_tokens"] == TOKENS
    (replica,) = stoa.api.replicas(endpoint["id"])  # no second one was made for it
    assert replica["state"] == "ready"
    request_id = answers[0]["response"]["request_id"]
    booked = until(lambda: stoa.api.tokens(request_id), what="it is booked")
    assert booked["output_tokens"] == TOKENS
