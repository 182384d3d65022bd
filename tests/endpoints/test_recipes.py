"""Model recipes: which one a model gets, and that each of ours is sound."""

from pathlib import Path
from typing import Any

import pytest
from django.core import checks
from django.test import override_settings

from controlplane.endpoints import recipes
from controlplane.endpoints.conditions import summarize
from controlplane.endpoints.errors import Invalid
from controlplane.endpoints.models import Endpoint
from controlplane.endpoints.states import Reason, State
from controlplane.fleet import wire
from controlplane.fleet.models import Node
from tests.endpoints.world import World, said


@pytest.mark.parametrize(
    ("model", "recipe", "parser"),
    [
        ("Qwen/Qwen2.5-7B-Instruct", "qwen2.5", "hermes"),
        ("/models/qwen2.5-0.5b-instruct-awq", "qwen2.5", "hermes"),
        ("Qwen/Qwen3-8B", "qwen3", "hermes"),
        ("Qwen/Qwen3-30B-A3B-FP8", "qwen3", "hermes"),
        ("Qwen/Qwen3-4B-Instruct-2507", "qwen3-instruct-2507", "hermes"),
        ("Qwen/Qwen3-Coder-30B-A3B-Instruct", "qwen3-coder", "qwen3_xml"),
        ("Qwen/QwQ-32B", "qwq", "hermes"),
        ("meta-llama/Llama-3.1-8B-Instruct", "llama3", "llama3_json"),
        ("meta-llama/Llama-3.3-70B-Instruct", "llama3", "llama3_json"),
        ("meta-llama/Llama-4-Scout-17B-16E-Instruct", "llama4", "llama4_pythonic"),
        ("mistralai/Mistral-Small-3.2-24B-Instruct-2506", "mistral", "mistral"),
        ("deepseek-ai/DeepSeek-R1-Distill-Llama-8B", "deepseek-r1-distill", None),
        ("deepseek-ai/DeepSeek-V3.1", "deepseek-v3.1", "deepseek_v31"),
        ("deepseek-ai/DeepSeek-V3-0324", "deepseek-v3", "deepseek_v3"),
        ("openai/gpt-oss-20b", "gpt-oss", "openai"),
        ("google/gemma-3-12b-it", "gemma", None),
        ("google/functiongemma-270m-it", "functiongemma", "functiongemma"),
        ("NousResearch/Hermes-3-Llama-3.1-8B", "hermes", "hermes"),
    ],
)
def test_a_models_name_finds_its_recipe(model: str, recipe: str, parser: str | None) -> None:
    found = recipes.named(model)
    assert found is not None
    assert (found.name, found.engine_args.get("tool_call_parser")) == (recipe, parser)
    assert recipes.candidates(model) == [found]


@pytest.mark.parametrize("model", ["Qwen/Qwen3-Embedding-0.6B", "Qwen/Qwen2.5-7B", "org/model"])
def test_where_no_name_fits_the_files_decide(model: str) -> None:
    assert recipes.named(model) is None
    left = recipes.candidates(model)
    assert {one.name for one in left} == {"hermes-style", "chatml"}
    assert not any(one.by_name for one in left)


def test_each_of_ours_says_where_its_facts_are_from() -> None:
    assert recipes.problems(str(recipes.OURS)) == []
    for recipe, told in recipes.everything():
        facts = {*recipe.engine_args} - {"enable_auto_tool_choice"}
        facts |= {name for name in ("call", "template", "tokens") if getattr(recipe, name)}
        assert facts <= recipe.sources.keys(), recipe.name
        if recipe.call:
            assert "NAME" in recipe.call and "ARGUMENTS" in recipe.call, recipe.name
        if wire.Capability.TOOLS in recipe.capabilities:
            assert told.engine_args["tool_call_parser"], recipe.name


def write(folder: Path, text: str) -> str:
    (folder / "own.toml").write_text(text)
    return str(folder)


def test_the_operators_come_first_and_replace_ours(tmp_path: Path) -> None:
    own = write(
        tmp_path,
        """
        [[recipe]]
        name = "ours"
        models = ["qwen2.5-7b-*"]
        template = "own.jinja"
        [recipe.engine_args]
        max_model_len = 8192
        tokenizer_mode = "slow"
        [recipe.sources]
        max_model_len = "measured"
        [[recipe]]
        name = "hermes"
        models = ["nothing"]
        [recipe.sources]
        """,
    )
    (tmp_path / "own.jinja").write_text("{{ messages }}")
    with override_settings(RECIPES_DIR=own):
        found = recipes.named("Qwen/Qwen2.5-7B-Instruct")
        assert found is not None
        assert (found.name, found.template) == ("ours", "{{ messages }}")
        assert found.engine_args == {"max_model_len": 8192, "tokenizer_mode": "slow"}
        assert recipes.named("NousResearch/Hermes-3-Llama-3.1-8B") is None
    assert getattr(recipes.named("Qwen/Qwen2.5-7B-Instruct"), "name", "") == "qwen2.5"


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("nonsense", "own.toml"),
        ('[[recipe]]\nname = "a"\nmodels = ["x"]', "sources"),
        ('[[recipe]]\nname = "a"\nmodel = ["x"]\n[recipe.sources]', "model"),
        ('[[recipe]]\nname = "a"\n[recipe.sources]', "fits no model"),
        (
            '[[recipe]]\nname = "a"\nmodels = ["x"]\n[recipe.engine_args]\n'
            "trust_remote_code = true\n[recipe.sources]",
            "trust_remote_code",
        ),
        (
            '[[recipe]]\nname = "a"\nmodels = ["x"]\ntemplate = "no.jinja"\n[recipe.sources]',
            "no.jinja",
        ),
        (
            '[[recipe]]\nname = "a"\nmodels = ["x"]\ncapabilities = ["magic"]\n[recipe.sources]',
            "magic",
        ),
    ],
)
def test_a_bad_recipe_is_named(tmp_path: Path, text: str, complaint: str) -> None:
    folder = write(tmp_path, text)
    (tmp_path / "right.toml").write_text(
        '[[recipe]]\nname = "right"\nmodels = ["right"]\n[recipe.sources]'
    )
    (wrong,) = recipes.problems(folder)
    assert "own.toml" in wrong and complaint in wrong
    with override_settings(RECIPES_DIR=folder):
        # Nobody waits for it: the others and ours are there.
        assert getattr(recipes.named("org/right"), "name", "") == "right"
        assert recipes.named("Qwen/Qwen2.5-7B-Instruct") is not None
        assert [one.id for one in checks.run_checks()] == ["endpoints.E001"]


# --- of an endpoint -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        (None, None),
        ([], []),
        (["json_schema", "tools"], ["tools", "json_schema"]),
    ],
)
def test_what_an_endpoint_promises_goes_to_its_node(
    world: World, node: Node, given: Any, kept: Any
) -> None:
    endpoint = world.endpoint(model="Qwen/Qwen2.5-0.5B-Instruct", capabilities=given)
    replica = world.replica(endpoint, node)
    spec = world.desired(node)[replica.id].spec
    assert spec is not None
    assert spec.capabilities == kept
    assert [one.name for one in spec.recipes] == ["qwen2.5"]
    assert "tool_call_parser" not in spec.engine_args  # they are the tenant's own


def test_an_unknown_capability_is_refused(world: World, node: Node) -> None:
    with pytest.raises(Invalid, match="tools, json_schema"):
        world.endpoint(capabilities=["mind_reading"])


def test_what_was_proved_is_shown(world: World, node: Node) -> None:
    endpoint = world.endpoint()
    replica = world.replica(endpoint, node, State.STARTING)
    proof = wire.Proof(
        recipe="qwen2.5",
        engine_args={"tool_call_parser": "hermes"},
        proved=[wire.Capability.TOOLS, wire.Capability.JSON_SCHEMA],
    )
    world.report(node, said(replica.id, wire.Phase.READY, proof=proof))
    replica.refresh_from_db()
    assert replica.proof["engine_args"] == {"tool_call_parser": "hermes"}
    (shown,) = [
        one for one in summarize(endpoint, [replica]).conditions if one.type == "CapabilitiesProved"
    ]
    assert (shown.status, shown.message) == ("True", "tools, json_schema; recipe qwen2.5")


def test_one_that_cannot_do_it_fails_with_advice(world: World, node: Node) -> None:
    endpoint = world.endpoint(capabilities=["tools"])
    replica = world.replica(endpoint, node, State.PROBING)
    detail = "the answer is text and no tool call: 'hello'"
    failed = said(replica.id, wire.Phase.FAILED, reason="tool_probe_failed", detail=detail)
    world.report(node, failed)
    replica.refresh_from_db()
    assert (replica.state, replica.reason) == (State.FAILED, Reason.TOOL_PROBE_FAILED)
    endpoint = Endpoint.objects.get(id=endpoint.id)
    assert endpoint.retry_at is not None  # as after any other failure of the engine's own
    summary = summarize(endpoint, [replica])
    assert summary.message.startswith("tool_probe_failed: the answer is text")
