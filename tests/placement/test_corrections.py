"""What was measured, and what other tools say."""

import math
import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from controlplane.placement.devices import known
from controlplane.placement.memory.engine import Arguments
from controlplane.placement.memory.estimates import Estimate
from controlplane.placement.speed import corrections, refining
from controlplane.placement.speed.corrections import Canary, Correction
from controlplane.placement.speed.refining import Point

POINT = Point("Qwen/Qwen3-32B", known()["h100"], Arguments(), 1000, 250, 32, False, 0.020)


def test_one_measurement_counts_half_and_ten_count_in_full() -> None:
    assert Correction().factor == 1
    one = corrections.learn([(2.0, 1.0)])
    assert one.factor == pytest.approx(math.sqrt(2))
    ten = corrections.learn([(2.0, 1.0)] * 10)
    assert ten.factor == pytest.approx(2.0)
    assert ten.margin(0.5) == corrections.FLOOR < one.margin(0.5)


def test_the_newest_count_most() -> None:
    changed = corrections.learn([(2.0, 1.0)] * 10 + [(1.0, 1.0)] * 10)
    assert 1.0 < changed.factor < 1.05


def test_what_scatters_keeps_a_margin() -> None:
    steady = corrections.learn([(1.0, 1.0)] * 20)
    wild = corrections.learn([(1.5, 1.0), (0.7, 1.0)] * 10)
    assert wild.margin(0.3) > 2 * steady.margin(0.3)


def test_what_is_no_duration_is_refused() -> None:
    for pair in ((0.0, 1.0), (1.0, 0.0), (float("nan"), 1.0)):
        with pytest.raises(ValueError):
            Correction().seen(*pair)


def test_a_canary_of_few_requests_says_little() -> None:
    half = Canary(60, 500, 1000, requests=100)
    few = Canary(60, 500, 1000, requests=2)
    sure, unsure = corrections.by_canary(half, 0.3), corrections.by_canary(few, 0.3)
    assert sure.slower == pytest.approx(2.0) and sure.move
    assert 1 < unsure.slower < 1.1 and not unsure.move
    assert sure.margin < unsure.margin <= 0.3


def test_a_canary_that_did_nothing_says_to_move() -> None:
    assert corrections.by_canary(Canary(60, 0, 1000, 0), 0.3).move
    with pytest.raises(ValueError):
        corrections.by_canary(Canary(0, 1, 1, 1), 0.3)


def test_a_quote_stands_beside_its_day() -> None:
    said = {"ttft_s": Estimate(0.1, 0.4), "tpot_s": Estimate(0.01, 0.02), "euro": Estimate(5, 6)}
    found = corrections.beside(said, {"ttft_s": 0.15, "tpot_s": 0.03})
    assert [(each.figure, each.kept) for each in found] == [("ttft_s", True), ("tpot_s", False)]
    assert found[0].off == pytest.approx(0.5)


def installed(monkeypatch: pytest.MonkeyPatch, tpot_ms: float) -> list[dict[str, Any]]:
    """A stand-in with the package's own function, as its 0.11 has it."""
    asked: list[dict[str, Any]] = []

    def cli_estimate(model_path: str, system_name: str, **how: Any) -> SimpleNamespace:
        asked.append({"model": model_path, "system": system_name, **how})
        return SimpleNamespace(ttft=100.0, tpot=tpot_ms)

    api = ModuleType("aiconfigurator.cli.api")
    api.__dict__["cli_estimate"] = cli_estimate
    for name in ("aiconfigurator", "aiconfigurator.cli"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    monkeypatch.setitem(sys.modules, "aiconfigurator.cli.api", api)
    return asked


def test_without_another_tool_the_formula_stands() -> None:
    assert refining.slower(POINT, [refining.Aiconfigurator()]) == (1.0, "")
    assert [each.name for each in refining.installed()] == ["aiconfigurator"]


def test_aiconfigurator_refines_where_it_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = installed(monkeypatch, 25.0)
    factor, by = refining.slower(POINT, [refining.Aiconfigurator()])
    assert factor == pytest.approx(1.25) and by == "aiconfigurator"
    assert asked[0]["system"] == "h100_sxm" and asked[0]["backend_name"] == "vllm"
    assert asked[0]["batch_size"] == 32 and asked[0]["isl"] == 1000


def test_nonsense_of_another_tool_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    installed(monkeypatch, 1e6)
    assert refining.slower(POINT, [refining.Aiconfigurator()])[0] == refining.HIGH


def test_a_refiner_that_fails_is_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    class Failing:
        name = "failing"

        def refine(self, point: Point) -> float | None:
            raise RuntimeError("no data")

    installed(monkeypatch, 20.0)
    found = refining.slower(POINT, [Failing(), refining.Aiconfigurator()])
    assert found[1] == "aiconfigurator"
    assert refining.slower(POINT, [Failing()]) == (1.0, "")
