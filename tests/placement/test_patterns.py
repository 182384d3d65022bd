"""Patterns of modules: as `re` has them, in time that a hostile one cannot stretch."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controlplane.placement.models import patterns
from controlplane.placement.models.patterns import Patterns
from controlplane.placement.refusals import Refusal

ATOMS = st.sampled_from(
    ["a", "b", ".", r"\.", "[ab]", "[^a.]", r"\d", "1", "[0-9]", r"\w", "^", "$"]
)
REPEATS = st.sampled_from(["", "", "", "*", "+", "?", "*?", "+?", "{2}", "{1,}", "{0,2}", "{3,}"])


def joined(some: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    """Rows, choices and groups of what there is."""
    group = some.map(lambda one: f"({one})") | some.map(lambda one: f"(?:{one})")
    repeated = st.tuples(group, REPEATS).map("".join)
    return (
        st.lists(some | repeated, min_size=1, max_size=3).map("".join)
        | st.lists(some, min_size=2, max_size=3).map("|".join)
        | repeated
    )


def _atom(parts: tuple[str, str]) -> str:
    return parts[0] if parts[0] in "^$" else "".join(parts)


EXPRESSIONS = st.recursive(st.tuples(ATOMS, REPEATS).map(_atom), joined, max_leaves=6)


@given(EXPRESSIONS, st.text("ab.1", max_size=8))
def test_it_finds_what_re_finds(expression: str, module: str) -> None:
    expected = re.search(expression, f"model.{module}") is not None
    assert Patterns([f"re:{expression}"]).mean(module) is expected


@given(st.text("ab.*", min_size=1, max_size=6), st.text("ab.", max_size=8))
def test_stars_are_anything(name: str, module: str) -> None:
    spread = ".*".join(re.escape(part) for part in name.split("*"))
    within = re.fullmatch(rf"(.*\.)?{spread}(\..*)?", module) is not None
    plain = module == name or module.startswith(f"{name}.") or module.endswith(f".{name}")
    assert Patterns([name]).mean(module) is (within if "*" in name else plain)


@pytest.mark.parametrize(
    ("names", "meant"),
    [
        (["re:.*self_attn.*"], ["layers.3.self_attn.q_proj"]),
        ([r"re:model\.layers\.[0-2]\.mlp\.(gate|up)_proj$"], ["layers.2.mlp.up_proj"]),
        (["model.layers.0.self_attn"], ["layers.0.self_attn.o_proj", "layers.0.self_attn"]),
        (["language_model.model.layers.*.mlp.gate"], ["layers.3.mlp.gate"]),
        (["lm_head"], ["lm_head", "model.lm_head"]),
        (["re:visual.*", "mtp*"], ["mtp.layers.0.mlp", "visual.blocks.0.attn"]),
    ],
)
def test_as_checkpoints_write_them(names: list[str], meant: list[str]) -> None:
    found = Patterns(names)
    assert [one for one in meant if not found.mean(one)] == []
    others = ["layers.30.mlp.down_proj", "layers.10.self_attention"]
    assert [one for one in others if found.mean(one)] == []


@pytest.mark.parametrize(
    "expression",
    [
        *(r"(?!a).*", r"(a)\1", r"a\b", "(", "a)", "[b", "*a", "a**", "a{2,1}", "(?P<x>a)", "a*+"),
        *("\\", "(" * 60 + ")" * 60, "a{9999}" * 3, "(a{99}){999}", "[z-a]"),
    ],
)
def test_what_it_cannot_say_is_refused(expression: str) -> None:
    with pytest.raises(Refusal, match="pattern"):
        Patterns([f"re:{expression}"])


@pytest.mark.parametrize(
    "hostile",
    [
        ["re:(a+)+$x"],
        ["re:(.*)*(.*)*(.*)*x"],
        ["re:" + "(.+)+" * 30 + "x"],
        ["*" * 40 + "x"],
        ["*a" * 200],
        ["re:" + "(.|m|o|d)*" * 200 + "x"],
        [f"re:.*{number}.*{number}.*x" for number in range(1000)],
    ],
)
def test_a_hostile_one_takes_no_more_than_its_steps(hostile: list[str]) -> None:
    steps = 0
    try:
        found = Patterns(hostile)
        for number in range(1024):
            assert not found.mean(f"layers.{number}.self_attn.qkv_proj" + "a" * 20)
            steps = found._steps
    except Refusal:
        steps = patterns.MOST_STEPS
    assert steps <= patterns.MOST_STEPS
