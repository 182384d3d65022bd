"""Two ways in which teams of agents used to fall over, on a real vLLM.

A supervisor's context grows turn by turn until nothing fits any more: it is served from the
prefix cache, warned early and refused with the numbers, and the engine never notices. And many
agents ask at once: they are answered side by side, not one after another.
"""

import re
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import Any

import openai
import pytest
from openai.types.chat import ChatCompletionMessageParam

from tests.flows.conftest import Made
from tests.flows.engine import counters
from tests.flows.stoa import Stoa, until

pytestmark = [pytest.mark.engine, pytest.mark.xdist_group("flows")]

WINDOW = 1024
AGENTS = 32
TOKENS = 96
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


def test_many_agents_are_answered_side_by_side(
    stoa: Stoa, team: tuple[openai.OpenAI, dict[str, Any]]
) -> None:
    """32 at once are all answered in three times what one alone takes on the same engine; one
    after the other it would be 32 times.

    Time is told in the engine's own steps, each of which takes all sequences one token further:
    how fast they follow each other is this machine's affair.
    """
    sdk, endpoint = team
    (replica,) = endpoint["replicas"]
    socket = stoa.socket(replica["id"])

    def ask(number: int, together: threading.Barrier) -> None:
        together.wait()
        raw = sdk.completions.with_raw_response.create(
            model="team",
            prompt=f"import os  # agent {number}",
            max_tokens=TOKENS,
            extra_headers={"x-stoa-run": f"swarm/{number}", "x-stoa-agent": f"worker-{number}"},
            extra_body={"ignore_eos": True},
        )
        usage = raw.parse().usage
        assert usage
        assert usage.completion_tokens == TOKENS

    def steps(agents: int) -> int:
        """From the start of all to the answer of the last."""
        together = threading.Barrier(agents)
        before = counters(socket).steps
        with ThreadPoolExecutor(agents) as pool:
            asked = [pool.submit(ask, number, together) for number in range(agents)]
            for one in asked:
                one.result()
        return counters(socket).steps - before

    alone = steps(1)
    assert alone >= TOKENS
    assert steps(AGENTS) <= 3 * alone
    until(lambda: counters(socket).running == 0, what="the engine is idle")
