"""Two ways in which teams of agents used to fall over, on a real vLLM.

A supervisor's context grows turn by turn until nothing fits any more: it is served from the
prefix cache, warned early and refused with the numbers, and the engine never notices. And many
agents ask at once: they are answered side by side, not one after another.
"""

import re
import time
from collections.abc import Iterator
from contextlib import ExitStack
from itertools import pairwise
from statistics import median
from typing import Any
from urllib.parse import urlsplit

import openai
import pytest
from openai.types.chat import ChatCompletionMessageParam

from tests.flows.conftest import Made
from tests.flows.engine import counters
from tests.flows.stoa import Stoa, until
from tests.gateway.wire import Connection
from workers.agent import models
from workers.agent.environment import Environment, default_cache

pytestmark = [pytest.mark.engine, pytest.mark.xdist_group("flows")]

WINDOW = 1024
AGENTS = 32
TOKENS = 64
ROUNDS = 7
# What a worker reports to its supervisor: about a twentieth of the window.
REPORT = "def open(file, mode): return self.read(file, mode) if mode else None\n" * 2


@pytest.fixture(scope="module")
def team(stoa: Stoa, kept: Made) -> Iterator[tuple[openai.OpenAI, dict[str, Any]]]:
    endpoint = kept.ready(
        "team", engine_args={"max_model_len": WINDOW, "max_num_seqs": AGENTS, "block_size": 32}
    )
    with stoa.client() as sdk:
        yield sdk, endpoint


def test_the_supervisor_whose_context_grows(
    stoa: Stoa, team: tuple[openai.OpenAI, dict[str, Any]]
) -> None:
    sdk, endpoint = team
    messages: list[ChatCompletionMessageParam] = [
        {"role": "system", "content": "You lead a team of workers."}
    ]
    turns: list[tuple[int, int, str]] = []  # prompt tokens, of them cached, and the warning
    refusal: openai.BadRequestError | None = None
    for turn in range(60):
        messages.append({"role": "user", "content": f"Worker {turn} reports: {REPORT}"})
        try:
            raw = sdk.chat.completions.with_raw_response.create(
                model="team",
                messages=messages,
                max_tokens=8,
                temperature=0,
                extra_headers={"x-stoa-run": "research-42", "x-stoa-agent": "supervisor"},
            )
        except openai.BadRequestError as error:
            refusal = error
            break
        answer = raw.parse()
        assert answer.usage
        details = answer.usage.prompt_tokens_details
        cached = (details.cached_tokens if details else 0) or 0
        turns.append((answer.usage.prompt_tokens, cached, raw.headers.get("x-stoa-warning", "")))
        usage = float(raw.headers["x-stoa-context-usage"])
        assert usage == pytest.approx(answer.usage.total_tokens / WINDOW, abs=0.01)
        messages.append({"role": "assistant", "content": answer.choices[0].message.content or ""})
    # Refused, with the numbers, in the shape that agents' frameworks know.
    assert refusal is not None
    assert refusal.code == "context_length_exceeded"
    assert str(WINDOW) in refusal.message
    assert len(re.findall(r"\d+", refusal.message)) >= 3
    # Each turn found the one before it in the cache, but for its last block.
    assert len(turns) > 8
    for (before, _, _), (_, cached, _) in pairwise(turns):
        assert cached >= before - 2 * 32
    # Warned early enough to do something about it, and not from the start.
    warned = [prompt for prompt, _, warning in turns if "context" in warning]
    assert warned
    assert 0.5 * WINDOW < warned[0] < 0.95 * WINDOW
    assert "context" not in turns[0][2]
    # The engine lives on: the same replica answers the next run.
    again = sdk.chat.completions.create(
        model="team", messages=[{"role": "user", "content": "Go on"}], max_tokens=4
    )
    assert again.choices
    live = stoa.api.get(f"/endpoints/{endpoint['id']}")["replicas"]
    assert [(r["id"], r["state"]) for r in live] == [(endpoint["replicas"][0]["id"], "ready")]


@pytest.fixture(scope="module")
def crew(stoa: Stoa, kept: Made, engine_environment: Environment) -> dict[str, Any]:
    """An endpoint whose engine takes a step of 32 sequences in little more time than one of 1.

    That is so on a GPU, which reads its weights once for all of them; on a processor where a model
    is deep and narrow.
    """
    model = models.tiny(default_cache(), engine_environment, layers=32) / "model"
    limits = {"max_model_len": WINDOW, "max_num_seqs": AGENTS, "block_size": 32}
    return kept.ready("crew", model=str(model), engine_args=limits)


def test_many_agents_are_answered_side_by_side(stoa: Stoa, crew: dict[str, Any]) -> None:
    """32 at once are all answered in three times what one alone takes on the same engine, whose
    batch holds 32 in both cases; one after the other it would be 32 times.

    In seconds, and in the engine's own steps, each of which takes all sequences one token further.
    One and many take turns, so that a busy machine delays either; the median of the rounds counts.
    """
    socket = stoa.socket(crew["replicas"][0]["id"])
    key, port = stoa.run["api_key"], urlsplit(stoa.run["gateway_url"]).port
    assert port
    with ExitStack() as stack:
        swarm = [stack.enter_context(Connection(port)) for _ in range(AGENTS)]

        def ask(agents: int) -> tuple[float, int]:
            """Seconds and steps from the first one's question to the last one's answer."""
            steps, began = counters(socket).steps, time.monotonic()
            for number, agent in enumerate(swarm[:agents]):
                agent.timeout(180)
                agent.post("/v1/completions", question(number), key=key, headers=named(number))
            replies = [agent.response() for agent in swarm[:agents]]
            took = time.monotonic() - began
            assert {reply.status for reply in replies} == {200}
            assert {reply.json["usage"]["completion_tokens"] for reply in replies} == {TOKENS}
            return took, counters(socket).steps - steps

        ask(AGENTS)  # what is done once is done
        rounds = [(ask(1), ask(AGENTS)) for _ in range(ROUNDS)]
    for (alone_s, alone), (all_s, all_) in rounds:
        print(f"one alone {alone_s:.2f} s, {alone} steps; {AGENTS} at once {all_s:.2f} s, {all_}")
        assert alone >= TOKENS
        assert all_ <= 3 * alone
    assert median(all_s / alone_s for (alone_s, _), (all_s, _) in rounds) <= 3, rounds
    until(lambda: counters(socket).running == 0, what="the engine is idle")


def question(agent: int) -> dict[str, Any]:
    prompt = f"import os  # agent {agent}"
    return {"model": "crew", "prompt": prompt, "max_tokens": TOKENS, "ignore_eos": True}


def named(agent: int) -> dict[str, str]:
    return {"x-stoa-run": f"swarm/{agent}", "x-stoa-agent": f"worker-{agent}"}
