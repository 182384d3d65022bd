"""Which recipe a model gets, now that its files are here, and what its engine is started with."""

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from controlplane.fleet import wire
from workers.agent.command import Value

_READ_MAX = 64 << 20


@dataclass(frozen=True)
class Chosen:
    """`engine_args`: the recipe's, and the tenant's over them. `template`: the text of a chat
    template for a model that brings none."""

    recipe: wire.Recipe | None
    engine_args: Mapping[str, Value]
    template: str = ""


def choose(spec: wire.ReplicaSpec, model: Path) -> Chosen:
    """The first of the spec's recipes that fits. Reads the model's files; never raises."""
    if spec.engine_args.get("runner") == "pooling":
        return Chosen(None, spec.engine_args)
    template = own_template(model)
    recipe = next((one for one in spec.recipes if _fits(one, model, template)), None)
    if recipe is None:
        return Chosen(None, spec.engine_args)
    merged = {**recipe.engine_args, **spec.engine_args}
    return Chosen(recipe, merged, "" if template else recipe.template)


def own_template(model: Path) -> str:
    """The model's own chat template, or several of them one after the other."""
    alone = _text(model / "chat_template.jinja")
    if alone:
        return alone
    try:
        said = json.loads(_text(model / "tokenizer_config.json") or "{}").get("chat_template")
    except (ValueError, AttributeError, RecursionError):
        return ""
    if isinstance(said, list):
        return "\n".join(str(one.get("template", "")) for one in said if isinstance(one, dict))
    return said if isinstance(said, str) else ""


def keep_template(text: str, folder: Path) -> Path:
    """Write a chat template where engines may read it; its path."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o755)
    path = folder / f"{hashlib.sha256(text.encode()).hexdigest()[:32]}.jinja"
    if not path.exists():
        draft = path.with_suffix(f".{os.getpid()}")
        draft.write_text(text)
        draft.chmod(0o644)
        draft.rename(path)
    return path


def _fits(recipe: wire.Recipe, model: Path, template: str) -> bool:
    if recipe.by_name:
        return True
    if recipe.template and template:
        return False  # it is for models that bring none
    if recipe.tokens:
        known = _text(model / "tokenizer.json") + _text(model / "tokenizer_config.json")
        return all(json.dumps(token, ensure_ascii=False) in known for token in recipe.tokens)
    return bool(template) and all(words in template for words in recipe.template_has)


def _text(path: Path) -> str:
    try:
        if path.stat().st_size > _READ_MAX:
            return ""
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
