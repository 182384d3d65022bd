"""What was measured, and what other tools say."""

import json
import math
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from controlplane.placement.devices import known
from controlplane.placement.memory.engine import Arguments
from controlplane.placement.memory.estimates import Estimate
from controlplane.placement.memory.predict import Question
from controlplane.placement.models import reading
from controlplane.placement.speed import corrections, engines, forecasts, refining
from controlplane.placement.speed.corrections import Canary, Correction
from controlplane.placement.speed.forecasts import Runtime
from controlplane.placement.speed.load import Job, Shape
from controlplane.placement.speed.refining import Point
from tests.placement.test_models import LLAMA

DENSE = {"model_type": "qwen3", "hidden_size": 5120}
POINT = Point(DENSE, known()["h100"], Arguments(), 1000, 400, 250, 32, False, 0.020)


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


def test_where_nothing_was_predicted_the_canary_is_all() -> None:
    found = forecasts.by_canary_alone(60.0, 24.0, 400)
    assert found.p50 == pytest.approx(1000)
    assert 1.1 * found.p50 < found.p95 < 1.5 * found.p50
    assert forecasts.by_canary_alone(60.0, 2000.0, 1_000_000).p95 < 1.1 * 30_000
    assert forecasts.by_canary_alone(60.0, 24.0, 24) == Estimate(60.0, 60.0)
    with pytest.raises(ValueError):
        forecasts.by_canary_alone(60.0, 0.0, 24)


def test_a_job_that_was_to_be_over_by_now_goes_on_as_it_does() -> None:
    """1,000 tokens were to take 30 s; after 60 s half of them are done."""
    runtime = Runtime(Estimate(30.0, 40.0), 33.3, 1000.0)
    seconds, corrected = forecasts.after_canary(runtime, 1000.0, Canary(60.0, 500, 2000, 100))
    assert seconds.p50 == pytest.approx(120) and corrected.move


def test_the_first_minute_of_a_long_job_is_not_that_of_a_sample(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shape = Shape(500, 250)
    asked = Question(reading.read(LLAMA), known()["h200"], Arguments(max_num_seqs=32), "0.15.1")
    engine = engines.build(asked, "llama", shape)
    whole = forecasts.of_job(engine, Job(8000, shape), 1)
    monkeypatch.setattr(forecasts, "SAMPLE", 400)
    sampled = forecasts.of_job(engine, Job(8000, shape), 1)
    monkeypatch.setattr(forecasts, "SAMPLE", 8000)
    simulated = forecasts.of_job(engine, Job(8000, shape), 1)
    assert simulated.seconds.p50 > forecasts.CANARY_S
    for found, off in ((whole, 0.05), (sampled, 0.2)):
        assert found.canary_tokens == pytest.approx(simulated.canary_tokens, rel=off)
        assert found.seconds.p50 == pytest.approx(simulated.seconds.p50, rel=2 * off)


def test_a_quote_stands_beside_its_day() -> None:
    said = {"ttft_s": Estimate(0.1, 0.4), "tpot_s": Estimate(0.01, 0.02), "euro": Estimate(5, 6)}
    found = corrections.beside(said, {"ttft_s": 0.15, "tpot_s": 0.03})
    assert [(each.figure, each.kept) for each in found] == [("ttft_s", True), ("tpot_s", False)]
    assert found[0].off == pytest.approx(0.5)


def installed(monkeypatch: pytest.MonkeyPatch, tpot_ms: float) -> list[dict[str, Any]]:
    """A stand-in with the package's own functions, as its 0.12 has them."""
    asked: list[dict[str, Any]] = []

    def cli_estimate(model_path: str, system_name: str, **how: Any) -> SimpleNamespace:
        """As the real one, it takes a folder with a config.json for a model; names it looks up."""
        config = json.loads((Path(model_path) / "config.json").read_text())
        asked.append({"config": config, "folder": model_path, "system": system_name, **how})
        if config["model_type"] == "unknown":
            raise ValueError("no such architecture")
        return SimpleNamespace(ttft=100.0, tpot=tpot_ms)

    def get_latest_database_version(system: str, backend: str) -> str | None:
        return "0.24.0" if (system, backend) == ("h100_sxm", "vllm") else None

    api = ModuleType("aiconfigurator.cli.api")
    api.__dict__["cli_estimate"] = cli_estimate
    database = ModuleType("aiconfigurator_core.sdk.perf_database")
    database.__dict__["get_latest_database_version"] = get_latest_database_version
    for module in ("aiconfigurator", "aiconfigurator.cli", "aiconfigurator_core"):
        monkeypatch.setitem(sys.modules, module, ModuleType(module))
    monkeypatch.setitem(sys.modules, "aiconfigurator_core.sdk", ModuleType("sdk"))
    monkeypatch.setitem(sys.modules, "aiconfigurator.cli.api", api)
    monkeypatch.setitem(sys.modules, "aiconfigurator_core.sdk.perf_database", database)
    refining._version.cache_clear()
    return asked


def test_without_another_tool_the_formula_stands() -> None:
    assert refining.slower(POINT, [refining.Aiconfigurator()]) == (1.0, "")
    assert [each.name for each in refining.installed()] == ["aiconfigurator"]


def test_aiconfigurator_refines_where_it_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = installed(monkeypatch, 25.0)
    factor, by = refining.slower(POINT, [refining.Aiconfigurator()])
    assert factor == pytest.approx(1.25) and by == "aiconfigurator"
    assert asked[0]["system"] == "h100_sxm" and asked[0]["backend_name"] == "vllm"
    assert (asked[0]["batch_size"], asked[0]["isl"], asked[0]["prefix"]) == (32, 1000, 400)
    assert (asked[0]["backend_version"], asked[0]["kvcache_quant_mode"]) == ("0.24.0", None)
    assert asked[0]["config"] == DENSE  # in a folder: nothing is looked up by a tenant's name
    cached = replace(POINT, arguments=Arguments(kv_cache_dtype="fp8_e4m3"))
    refining.slower(cached, [refining.Aiconfigurator()])
    assert asked[1]["kvcache_quant_mode"] == "fp8"
    assert asked[1]["folder"] == asked[0]["folder"]  # it keeps what it read by that


@pytest.mark.parametrize(
    "changed",
    [
        {"config": {}},
        {"config": {"model_type": "unknown"}},
        {"sparse": True},
        {"device": known()["mi300x"]},
        {"device": known()["l4"]},
        {"arguments": Arguments(quantization="fp8")},
        {"arguments": Arguments(pipeline_parallel_size=2)},
    ],
)
def test_what_aiconfigurator_does_not_know_stands(
    monkeypatch: pytest.MonkeyPatch, changed: dict[str, Any]
) -> None:
    installed(monkeypatch, 25.0)
    found = refining.slower(replace(POINT, **changed), [refining.Aiconfigurator()])
    assert found == (1.0, "")


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
