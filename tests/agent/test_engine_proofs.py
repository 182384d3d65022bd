"""A real vLLM proves its tools and its JSON schema, or says why it cannot."""

import json
import shutil
from pathlib import Path
from typing import Any

import msgspec
import pytest

from controlplane.endpoints import recipes as ours
from controlplane.fleet.wire import Capability
from tests.agent.engine_bench import Bench, chat, wait
from workers.agent import engines, recipes
from workers.agent.engines import ProofError

pytestmark = [pytest.mark.engine, pytest.mark.xdist_group("engine")]

EVERYTHING = [Capability.TOOLS, Capability.JSON_SCHEMA]


@pytest.fixture(scope="module")
def mute(bench: Bench) -> Path:
    """The tiny model without its chat template."""
    folder = bench.root / "mute"
    shutil.copytree(bench.tiny / "model", folder)
    (folder / "chat_template.jinja").unlink(missing_ok=True)
    config = json.loads((folder / "tokenizer_config.json").read_text())
    config.pop("chat_template", None)
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return folder


def started(
    bench: Bench, name: str, model: Path, recipe: bool = True, **arguments: Any
) -> engines.Running:
    """As the agent starts it: with the recipe that the model's files ask for, if any."""
    given = {"kv_cache_memory_bytes": 64 << 20, **arguments}
    known = ours.candidates("org/tiny") if recipe else []
    spec = bench.spec(name, model=str(model), engine_args=given, recipes=known)
    chosen = recipes.choose(spec, model)
    spec = msgspec.structs.replace(spec, engine_args=dict(chosen.engine_args))
    template = None
    if chosen.template:
        template = recipes.keep_template(chosen.template, bench.root / "templates")
    running = bench.start(spec, bench.standby(), template=template)
    return msgspec.structs.replace(running, recipe=chosen.recipe)


def serving(bench: Bench, *args: Any, **kwargs: Any) -> engines.Running:
    running = started(bench, *args, **kwargs)
    wait(lambda: engines.listening(running) or not engines.alive(running))
    assert engines.alive(running), engines.exit_reason(running)
    return running


def flaw(running: engines.Running, *wanted: Capability) -> ProofError:
    with pytest.raises(ProofError) as refusal:
        engines.prove(running, "ep_1", wanted)
    return refusal.value


def test_the_right_parser_is_proved(bench: Bench) -> None:
    running = serving(bench, "rep_right", bench.tiny / "model")
    assert running.recipe is not None
    assert running.recipe.name == "hermes-style"
    engines.prove(running, "ep_1", EVERYTHING)
    engines.stop(running, 0.0)


def test_a_parser_that_does_not_read_what_the_model_writes(bench: Bench) -> None:
    running = serving(bench, "rep_wrong", bench.tiny / "model", tool_call_parser="pythonic")
    found = flaw(running, *EVERYTHING)
    assert found.capability is Capability.TOOLS
    assert "text and no tool call: '<tool_call>" in str(found)
    engines.prove(running, "ep_1", [Capability.JSON_SCHEMA])
    engines.stop(running, 0.0)


def test_a_parser_that_does_not_suit_the_tokenizer(bench: Bench) -> None:
    running = started(bench, "rep_alien", bench.tiny / "model", tool_call_parser="mistral")
    wait(lambda: not engines.alive(running))
    assert "--tool-call-parser mistral cannot be used" in engines.exit_reason(running)


def test_no_parser_and_no_template(bench: Bench, mute: Path) -> None:
    running = serving(bench, "rep_none", mute, recipe=False)
    assert "requires --tool-call-parser" in str(flaw(running, Capability.TOOLS))
    assert "chat template" in str(flaw(running, Capability.JSON_SCHEMA))
    engines.stop(running, 0.0)


def test_a_template_of_ours_for_a_model_that_brings_none(bench: Bench, mute: Path) -> None:
    running = serving(bench, "rep_chatml", mute)
    assert running.recipe is not None
    assert (running.recipe.name, running.template) == ("chatml", True)
    engines.prove(running, "ep_1", EVERYTHING)
    turns = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": [{"type": "text", "text": "Look."}]},
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [
                {
                    "id": "1",
                    "type": "function",
                    "function": {"name": "look", "arguments": '{"far": true}'},
                }
            ],
        },
        {"role": "tool", "tool_call_id": "1", "content": "nothing"},
    ]
    assert chat(running, messages=turns)["usage"]["prompt_tokens"] > 20
    engines.stop(running, 0.0)
