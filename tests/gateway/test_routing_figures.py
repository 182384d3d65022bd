"""The benchmark of routing, on a small trace of its own: conversations that grow."""

import json
import random
import sys
from pathlib import Path

import pytest

from tests.benchmarks import routing
from tests.benchmarks.routing import Counting, Ours, Prompt, Setting, play, sglang_like

TOKENS = routing.TOKENS


def conversations(count: int, turns: int) -> list[Prompt]:
    """Each starts with one of a few system prompts, and comes back every half minute or so."""
    chance = random.Random(3)
    prompts = []
    for talk in range(count):
        at = chance.uniform(0, 600)
        system = talk % 5
        blocks = [-1000 * system - number for number in range(8)]
        for turn in range(turns):
            blocks = [*blocks, *(talk * 10_000 + turn * 100 + more for more in range(8))]
            tokens = len(blocks) * TOKENS - chance.randrange(TOKENS)
            prompts.append(Prompt(at, tokens, chance.randrange(20, 600), tuple(blocks)))
            at += chance.expovariate(1 / 30)
    return sorted(prompts, key=lambda prompt: prompt.at)


@pytest.mark.parametrize(("load", "share"), [(0.4, 1.0), (0.9, 0.9), (2.0, 0.3)])
def test_it_answers_sooner_than_what_only_matches_or_only_counts(load: float, share: float) -> None:
    """A load of 1 is what the replicas could do with empty caches."""
    prompts, setting = conversations(220, 10), Setting(load=load)
    ours = play(prompts, Ours(setting.replicas), setting)
    blind = play(prompts, Ours(setting.replicas, index=False), setting)
    assert ours.mean < share * sglang_like(prompts, setting).mean
    assert ours.mean < 0.5 * blind.mean
    if load < 1:  # beyond, nobody who reads everything again keeps up
        assert blind.mean < play(prompts, Counting(setting.replicas), setting).mean
    assert ours.hit > 2 * blind.hit


def test_it_holds_when_caches_are_lost_that_it_believes_in() -> None:
    prompts, setting = conversations(220, 10), Setting(lost=0.3)
    ours = play(prompts, Ours(setting.replicas), setting)
    assert ours.mean < 0.85 * sglang_like(prompts, setting).mean


def test_it_says_what_it_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    trace = tmp_path / "trace.jsonl"
    rows = [
        {
            "timestamp": int(prompt.at * 1000),
            "input_length": prompt.tokens,
            "output_length": prompt.output,
            "hash_ids": prompt.blocks,
        }
        for prompt in conversations(40, 4)
    ]
    trace.write_text("".join(json.dumps(row) + "\n" for row in rows))
    monkeypatch.setattr(sys, "argv", ["routing", "--trace", str(trace)])
    routing.main()
    lines = capsys.readouterr().out.splitlines()
    figures = [json.loads(line) for line in lines if line.startswith("{")]
    mean = [each for each in figures if each["name"] == "routing.mean_ttft_s"]
    assert [each["vs"] for each in mean] == [
        "sglang_like", "backlog_only", "power_of_two", "random",
    ]  # fmt: skip
    assert all(each["unit"] == "s" and each["ratio"] > 0 for each in figures)
    assert lines[-1].startswith("{")


def test_it_says_what_to_pass_where_there_is_no_trace(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["routing", "--trace", "/nowhere.jsonl"])
    with pytest.raises(SystemExit, match="--trace FILE"):
        routing.main()
