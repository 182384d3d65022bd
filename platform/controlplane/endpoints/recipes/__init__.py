"""Model recipes: what an engine of a family of models should be started with, as data.

One TOML file a family, in this folder and in the operator's own (setting RECIPES_DIR, read first;
a recipe of a name that is taken replaces ours). Files are read once. The first that fits a model's
name applies; where none does, those that look into a model's files go along, and the node that has
the files decides.
What a tenant says himself always wins over a recipe.

    [[recipe]]
    name = "…"                 # shown to people
    models = ["Name-*"]        # the last part of a hub id or a path, any case; or, of its files:
    template_has = ["…"]       # words of its own chat template
    tokens = ["…"]             # tokens that its tokenizer knows
    capabilities = ["tools"]   # proved before it is ready, unless the endpoint says otherwise
    call = "… NAME … ARGUMENTS …"  # how it writes a tool call
    template = "x.jinja"       # beside this file; used where the model has none
    probe_tokens = 128         # so many tokens a probe's answer may take
    template_kwargs = {}       # of the chat template, in probes
    [recipe.engine_args]
    [recipe.sources]           # where each fact is from
"""

import fnmatch
import logging
import tomllib
from functools import lru_cache
from pathlib import Path
from typing import Any

import msgspec
from django.conf import settings

from controlplane.endpoints import engine_args
from controlplane.endpoints.errors import Invalid
from controlplane.fleet import wire

log = logging.getLogger(__name__)

OURS = Path(__file__).parent
CAPABILITIES = tuple(wire.Capability)
# Beside what a tenant may say, recipes may: vLLM's own names for the formats of a repository.
_MORE = frozenset({"config_format", "load_format", "tokenizer_mode"})
_TEMPLATE_MAX = 64 << 10


class RecipeError(Exception):
    """A recipe that cannot be used; the message names its file."""


class Recipe(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One as it stands in a file; `wire.Recipe` is what nodes are told of it."""

    name: str
    models: tuple[str, ...] = ()
    template_has: tuple[str, ...] = ()
    tokens: tuple[str, ...] = ()
    capabilities: tuple[wire.Capability, ...] = ()
    call: str = ""
    template: str = ""
    probe_tokens: int = wire.PROBE_TOKENS
    template_kwargs: dict[str, Any] = {}
    engine_args: dict[str, Any] = {}
    sources: dict[str, str]


def candidates(model: str) -> list[wire.Recipe]:
    """What may apply to a model: the one that fits its name, or those that look into its files."""
    return list(_candidates(model, settings.RECIPES_DIR))


def named(model: str) -> wire.Recipe | None:
    """The one that fits a model's name."""
    found = candidates(model)
    return found[0] if found and found[0].by_name else None


def everything() -> list[tuple[Recipe, wire.Recipe]]:
    """All, in the order in which they are tried."""
    return list(_load(settings.RECIPES_DIR))


def problems(folder: str) -> list[str]:
    """What is wrong with the recipes of a folder; no file of one that is wrong is used."""
    return [wrong for path in _files(folder) if (wrong := _read(path)[1])]


@lru_cache(maxsize=4096)
def _candidates(model: str, folder: str) -> tuple[wire.Recipe, ...]:
    name = model.rstrip("/").rpartition("/")[2].casefold()
    every = _load(folder)
    for recipe, told in every:
        if any(fnmatch.fnmatchcase(name, pattern.casefold()) for pattern in recipe.models):
            return (msgspec.structs.replace(told, by_name=True),)
    return tuple(told for recipe, told in every if recipe.template_has or recipe.tokens)


@lru_cache(maxsize=8)
def _load(folder: str) -> tuple[tuple[Recipe, wire.Recipe], ...]:
    """The operator's, then ours."""
    found: dict[str, tuple[Recipe, wire.Recipe]] = {}
    for place in (*([Path(folder)] if folder else []), OURS):
        for path in _files(str(place)):
            recipes, wrong = _read(path)
            if wrong:
                # Nodes wait for their wish lists: one bad file must not keep them from it.
                log.error("a file of model recipes is not used: %s", wrong)
            for recipe, told in recipes:
                found.setdefault(recipe.name, (recipe, told))
    return tuple(found.values())


def _files(folder: str) -> list[Path]:
    return sorted(Path(folder).glob("*.toml")) if folder else []


def _read(path: Path) -> tuple[list[tuple[Recipe, wire.Recipe]], str]:
    """The recipes of a file, or none and what is wrong with it."""
    try:
        content = tomllib.loads(path.read_text())
        kept = msgspec.convert(content, dict[str, list[Recipe]], strict=True).get("recipe", [])
        return [(recipe, _told(recipe, path)) for recipe in kept], ""
    except (OSError, ValueError, msgspec.ValidationError) as error:
        return [], f"{path}: {error}"
    except RecipeError as error:
        return [], str(error)


def _told(recipe: Recipe, path: Path) -> wire.Recipe:
    if not (recipe.models or recipe.template_has or recipe.tokens):
        raise RecipeError(f"{path}: {recipe.name} fits no model")
    ordinary = {k: v for k, v in recipe.engine_args.items() if k not in _MORE}
    try:
        checked = engine_args.validate(ordinary, 1)
    except Invalid as error:
        raise RecipeError(f"{path}: {recipe.name}: {error.message}") from error
    return wire.Recipe(
        name=recipe.name,
        engine_args={**recipe.engine_args, **checked},
        capabilities=list(recipe.capabilities),
        template_has=list(recipe.template_has),
        tokens=list(recipe.tokens),
        call=recipe.call,
        template=_template(recipe, path),
        probe_tokens=recipe.probe_tokens,
        template_kwargs=recipe.template_kwargs,
    )


def _template(recipe: Recipe, path: Path) -> str:
    if not recipe.template:
        return ""
    place = path.with_name(Path(recipe.template).name)
    try:
        text = place.read_text()
    except (OSError, ValueError) as error:
        raise RecipeError(f"{path}: {recipe.name}: {place.name}: {error}") from error
    if len(text) > _TEMPLATE_MAX:
        raise RecipeError(f"{place} has more than {_TEMPLATE_MAX} characters")
    return text
