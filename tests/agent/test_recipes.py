"""Which recipe a model gets by its files, and what an engine is then started with."""

import json
from pathlib import Path
from typing import Any

import pytest

from controlplane.fleet import wire
from tests.agent.node import spec
from workers.agent import recipes

STYLE = wire.Recipe(
    name="style",
    template_has=["<tool_call>"],
    engine_args={"tool_call_parser": "hermes", "enable_auto_tool_choice": True},
)
CHATML = wire.Recipe(name="chatml", tokens=["<|im_start|>"], template="{{ messages }}")


@pytest.fixture
def model(tmp_path: Path) -> Path:
    (tmp_path / "tokenizer.json").write_text(json.dumps({"added": ["<|im_start|>"]}))
    (tmp_path / "tokenizer_config.json").write_text("{}")
    return tmp_path


def chosen(model: Path, *given: wire.Recipe, **changes: Any) -> recipes.Chosen:
    return recipes.choose(spec(recipes=list(given), **changes), model)


@pytest.mark.parametrize(
    "files",
    [
        {"chat_template.jinja": "… <tool_call> …"},
        {"tokenizer_config.json": json.dumps({"chat_template": "<tool_call>"})},
        {
            "tokenizer_config.json": json.dumps(
                {"chat_template": [{"name": "tool_use", "template": "<tool_call>"}]}
            )
        },
    ],
)
def test_the_models_own_template_tells(model: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (model / name).write_text(text)
    found = chosen(model, CHATML, STYLE)
    assert found.recipe is STYLE
    assert found.template == ""


def test_a_template_of_ours_only_where_there_is_none(model: Path, tmp_path: Path) -> None:
    found = chosen(model, STYLE, CHATML)
    assert found.recipe is CHATML
    path = recipes.keep_template(found.template, tmp_path / "templates")
    assert path.read_text() == "{{ messages }}"
    assert path.stat().st_mode & 0o004
    assert recipes.keep_template(found.template, tmp_path / "templates") == path


def test_what_the_tenant_says_wins(model: Path) -> None:
    named = wire.Recipe(name="n", by_name=True, engine_args={"tool_call_parser": "a", "seed": 1})
    found = chosen(model, named, engine_args={"tool_call_parser": "b", "dtype": "auto"})
    assert found.engine_args == {"tool_call_parser": "b", "seed": 1, "dtype": "auto"}


def test_none_fits(model: Path) -> None:
    (model / "tokenizer.json").write_text("{}")
    (model / "tokenizer_config.json").write_text("no json")
    assert chosen(model, STYLE, CHATML).recipe is None
    (model / "tokenizer.json").unlink()
    assert chosen(model, STYLE, CHATML, engine_args={"seed": 1}).engine_args == {"seed": 1}


def test_a_model_that_embeds_needs_none(model: Path) -> None:
    (model / "chat_template.jinja").write_text("<tool_call>")
    assert chosen(model, STYLE, engine_args={"runner": "pooling"}).recipe is None
