"""What starts printed corrects what is predicted next, and no single one of them spoils it."""

from dataclasses import replace
from typing import Any

from controlplane.placement.devices import GIB
from controlplane.placement.memory import learning
from controlplane.placement.memory.engine import Behaviour, version
from controlplane.placement.memory.learning import Key, Start

KEY = Key("0.17.1", "LlamaForCausalLM", "h100", "none", 1)
NOW = Behaviour(version("0.17.1"))


def start(gib: float, **changed: Any) -> Start:
    plain = Start("0.17.1", "LlamaForCausalLM", "h100", "none", 1, gib * GIB)
    return replace(plain, **changed)


def test_without_any_start_the_formula_stands_with_a_wide_p95() -> None:
    found = learning.residual([], KEY, NOW)
    assert found == learning.cold(NOW, 1)
    assert found.p95 - found.p50 >= 0.5 * GIB


def test_starts_of_the_same_kind_win_over_nearer_numbers() -> None:
    others = [start(3.0, device="a100-80"), start(5.0, engine_version="0.11.0")]
    own = [start(0.4), start(0.42), start(0.38)]
    found = learning.residual(others + own, KEY, NOW)
    assert abs(found.p50 - 0.4 * GIB) < 0.1 * GIB
    assert found.p95 - found.p50 < 0.5 * GIB


def test_more_starts_narrow_it() -> None:
    one = learning.residual([start(0.4)], KEY, NOW)
    many = learning.residual([start(0.4)] * 20, KEY, NOW)
    assert abs(many.p50 - 0.4 * GIB) < abs(one.p50 - 0.4 * GIB)
    assert many.p95 - many.p50 < one.p95 - one.p50


def test_a_start_beside_a_neighbour_does_not_spoil_the_rest() -> None:
    calm = learning.residual([start(0.4)] * 4, KEY, NOW)
    spoilt = learning.residual([start(0.4)] * 4 + [start(9.0)], KEY, NOW)
    assert abs(spoilt.p50 - calm.p50) < 0.05 * GIB


def test_versions_that_account_differently_are_not_mixed() -> None:
    foreign = [start(2.0, engine_version="0.8.5"), start(2.0, engine_version="0.26.0")]
    assert learning.residual(foreign, KEY, NOW) == learning.cold(NOW, 1)
    several = [start(2.0, ranks=8)]
    assert learning.residual(several, KEY, NOW) == learning.cold(NOW, 1)


def test_a_kernels_own_layout_of_weights_is_learned() -> None:
    heavy = [start(0.4, backend="mxfp4", weights_ratio=1.06)] * 3
    key = replace(KEY, backend="mxfp4")
    assert learning.ratio(heavy, key) == (1.06, 3)
    assert learning.ratio(heavy, KEY) == (1.0, 0)
    assert learning.ratio(heavy, replace(key, device="a100-80")) == (1.0, 0)
