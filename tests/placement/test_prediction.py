"""Predictions beside measured starts, and what a person is told."""

import io
import json
import struct
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from controlplane.endpoints import predict_client
from controlplane.placement.devices import GIB, find, known
from controlplane.placement.memory import advice, learning, safetensors, startup_log
from controlplane.placement.memory.engine import Arguments, arguments
from controlplane.placement.memory.predict import (
    Prediction,
    Question,
    Verdict,
    learned,
    predict,
    smallest,
)
from controlplane.placement.models import reading
from controlplane.placement.refusals import Refusal
from tests.benchmarks import predict as bench
from tests.benchmarks.memory import scoring, table, truth
from tests.placement.test_models import LLAMA


@pytest.fixture(scope="module")
def scored() -> list[scoring.Scored]:
    return scoring.all_of(bench.TRUTH, bench.CONFIGS)


def test_predictions_meet_their_aims_on_measured_starts(scored: list[scoring.Scored]) -> None:
    print(table.text(scored))
    found = table.totals(scored)
    assert len(found.tokens_pct) >= 10 and max(found.tokens_pct) <= 0.5
    assert len(found.weights_pct) >= 8 and max(found.weights_pct) <= 1.0
    assert len(found.kv_gib) >= 5 and found.kv_mae <= 0.25 and max(found.kv_gib) <= 1.0
    assert found.kv_mae < found.gpustack_mae / 4


def test_what_ran_is_said_to_fit_and_what_failed_is_not(scored: list[scoring.Scored]) -> None:
    told = [each for each in scored if each.verdict is not None]
    assert len(told) >= 30 and sum(each.row.failed for each in told) >= 5
    assert [each.row.model for each in told if not each.right] == []


def test_every_other_row_is_covered_by_its_p95(scored: list[scoring.Scored]) -> None:
    assert table.uncovered(scored) == []


def test_each_row_that_is_refused_names_a_fact(scored: list[scoring.Scored]) -> None:
    for each in scored:
        missing = [q for q in (each.weights, each.kv_gib, each.tokens) if q.refused]
        assert not missing or each.refused
        assert each.verdict is not None or each.refused


def test_nothing_learned_from_a_rows_own_release_is_used_for_it() -> None:
    rows = {row.line: row for row in truth.rows(bench.TRUTH)}
    row = rows[4]
    model = truth.model(bench.CONFIGS, row)
    asked = scoring.question(row, model, row.version or "", learning.published())
    assert asked.starts and row.release == "0.17"
    assert all(not each.engine_version.startswith("0.17") for each in asked.starts)


def test_the_published_starts_are_what_the_formulas_leave_of_the_rows() -> None:
    found = scoring.starts(bench.CONFIGS, truth.rows(bench.TRUTH))
    assert bench.STARTS.read_text() == bench.written(found)


def question(**flags: Any) -> Question:
    stated = truth.configuration(bench.CONFIGS, "Llama-3.1-8B-Instruct")
    return Question(
        model=reading.read(stated),
        device=known()["rtx-3090"],
        arguments=Arguments(**flags),
        engine_version="0.26.0",
        starts=learning.published(),
    )


def test_what_a_start_printed_makes_the_next_prediction_right() -> None:
    asked = question(max_model_len=8192)
    before = predict(asked)
    printed = startup_log.read(
        ["Model loading took 15.40 GiB and 3 seconds", "Available KV cache memory: 4.80 GiB"]
    )
    starts = [learned(asked, printed)] * 8
    after = predict(replace(asked, starts=starts))
    assert abs(after.kv_bytes.p50 / GIB - 4.80) < 0.1 < abs(before.kv_bytes.p50 / GIB - 4.80)
    assert after.kv_bytes.p50 - after.kv_bytes.p95 < before.kv_bytes.p50 - before.kv_bytes.p95
    with pytest.raises(Refusal, match="KV cache"):
        learned(asked, startup_log.Printed(weights_gib=15.0))


def test_starts_with_graphs_and_without_teach_the_same() -> None:
    """The engine sets memory aside for each size that it captures: 51 by default on an H100."""
    asked = replace(question(), device=known()["h100"], engine_version="0.32.0", starts=())
    eager = replace(asked, arguments=Arguments(enforce_eager=True))
    few = replace(asked, arguments=Arguments(max_num_seqs=16))
    sizes = {}
    for one in (asked, eager, few):
        found = predict(one)
        printed = startup_log.Printed(weights_gib=15.0, kv_gib=found.kv_bytes.p50 / GIB)
        start = learned(one, printed)
        held = found.weights.p50 - 15.0 * GIB
        assert abs(start.residual_bytes - held - learning.COLD_BYTES) < 1 << 20
        sizes[found.arguments.captured] = found.graphs.p50
    assert set(sizes) == {51, 0, 7} and sizes[0] == 0
    assert abs(sizes[51] / GIB - 0.92) < 0.01


def test_what_does_not_fit_is_advised_of_what_does() -> None:
    asked = question(max_model_len=131072)
    assert predict(asked).verdict is Verdict.DOES_NOT_FIT
    found = {each.argument: each for each in advice.changes(asked, list(known().values()))}
    assert {"max_model_len", "tensor_parallel_size", "device"} <= set(found)
    length = int(found["max_model_len"].value)
    assert predict(question(max_model_len=length)).verdict is Verdict.FITS
    assert predict(question(max_model_len=length + 4096)).verdict is not Verdict.FITS


def test_the_smallest_device_is_the_least_memory_that_fits() -> None:
    found = smallest(question(max_model_len=8192), list(known().values()))
    assert found is not None
    device, ranks = found
    assert predict(replace(question(max_model_len=8192), device=device)).verdict is Verdict.FITS
    assert ranks == 1
    assert all(
        predict(replace(question(max_model_len=8192), device=each)).verdict is not Verdict.FITS
        for each in known().values()
        if each.memory_bytes < device.memory_bytes
    )


@pytest.mark.parametrize(
    ("flags", "fact"),
    [
        ({"tensor_parallel_size": 3}, "tensor_parallel_size"),
        ({"gpu_memory_utilization": 1.5}, "gpu_memory_utilization"),
        ({"pipeline_parallel_size": 64}, "pipeline_parallel_size"),
        ({"kv_cache_dtype": "fp1"}, "fp1"),
        ({"dtype": "fp1"}, "fp1"),
    ],
)
def test_what_the_engine_would_refuse_is_refused(flags: dict[str, Any], fact: str) -> None:
    with pytest.raises(Refusal) as refused:
        predict(question(**flags))
    assert fact in refused.value.fact


def test_an_online_quantisation_halves_the_weights() -> None:
    plain, small = predict(question()), predict(question(quantization="fp8"))
    assert small.weights.p50 < 0.6 * plain.weights.p50
    with pytest.raises(Refusal, match="vapour"):
        predict(question(quantization="vapour"))


def test_a_neighbour_takes_what_the_engine_asks_for() -> None:
    asked = question(max_model_len=4096, gpu_memory_utilization=0.9)
    assert predict(asked).verdict is Verdict.FITS
    assert predict(replace(asked, occupied_bytes=1 * GIB)).verdict is Verdict.FITS
    assert predict(replace(asked, occupied_bytes=4 * GIB)).verdict is Verdict.DOES_NOT_FIT
    before = replace(asked, engine_version="0.8.5", occupied_bytes=4 * GIB)
    alone = replace(before, occupied_bytes=0)
    assert predict(alone).kv_bytes.p50 - predict(before).kv_bytes.p50 == 4 * GIB


def test_a_cache_of_stated_size_must_have_room() -> None:
    small, large = (question(max_model_len=4096, kv_cache_memory_bytes=n * GIB) for n in (2, 12))
    assert predict(small).kv_bytes.p50 == 2 * GIB and predict(small).verdict is Verdict.FITS
    assert predict(large).verdict is Verdict.DOES_NOT_FIT


def test_arguments_are_read_as_the_engine_spells_them() -> None:
    found = arguments({"--max-model-len": "32K", "enforce_eager": "", "--kv-cache-dtype": "fp8"})
    assert found.max_model_len == 32768 and found.enforce_eager and found.kv_cache_dtype == "fp8"
    with pytest.raises(Refusal, match="max_num_seqs"):
        arguments({"--max-num-seqs": "many"})


def checkpoint(folder: Path, sizes: dict[str, int]) -> None:
    """A folder with a config.json and a file of empty tensors of these sizes."""
    offset, header = 0, {}
    for name, size in sizes.items():
        header[name] = {
            "dtype": "BF16",
            "shape": [size // 2],
            "data_offsets": [offset, offset + size],
        }
        offset += size
    text = json.dumps(header).encode()
    (folder / "config.json").write_text(json.dumps(LLAMA))
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(text)) + text)


def test_weights_are_exact_by_the_headers(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint(tmp_path, {"model.embed_tokens.weight": 2 << 30, "mtp.fc.weight": 1 << 30})
    assert predict_client.main([str(tmp_path), "--gpu", "l4", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    # What belongs to a multi-token-prediction head is not loaded without one.
    assert told["weights_bytes"]["p50"] == pytest.approx(2 << 30, rel=0.01)
    assert told["verdict"] == "fits" and told["smallest"] == {"device": "l4", "devices": 1}


def test_a_log_of_a_start_is_learned_from(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stated = truth.configuration(bench.CONFIGS, "Llama-3.1-8B-Instruct")
    (tmp_path / "config.json").write_text(json.dumps(stated))
    log = tmp_path / "vllm.log"
    log.write_text(
        "INFO vLLM API server version 0.17.1\n"
        "INFO Model loading took 14.99 GiB memory and 4.9 seconds\n"
        "INFO Available KV cache memory: 50.00 GiB\n"
    )
    command = [str(tmp_path), "--gpu", "a100-80", "--max-model-len", "32768", "--json"]
    found = []
    for more in (["--engine-version", "0.17.1"], ["--log", str(log)]):
        assert predict_client.main([*command, *more]) == 0
        found.append(json.loads(capsys.readouterr().out))
    before, after = (each["kv_bytes"]["p50"] / GIB for each in found)
    assert found[1]["engine_version"] == "0.17.1" and 50 < after < before - 1
    log.write_text("INFO hello\n")
    assert predict_client.main([*command, "--log", str(log)]) == 2
    assert predict_client.main([*command, "--log", str(tmp_path / "none")]) == 2


def test_a_broken_header_is_refused() -> None:
    for content in (b"", b"\x08\x00\x00\x00\x00\x00\x00\x00not json", struct.pack("<Q", 1 << 60)):
        with pytest.raises(Refusal, match="header"):
            safetensors.sizes(io.BytesIO(content))


def test_a_person_is_told_in_a_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "config.json").write_text(
        json.dumps(truth.configuration(bench.CONFIGS, "Llama-3.1-8B-Instruct"))
    )
    assert predict_client.main([str(tmp_path), "--gpu", "rtx-3090", "--max-model-len=131072"]) == 1
    said = capsys.readouterr().out
    assert "does not fit" in said and "it fits with max_model_len = " in said
    assert predict_client.main([str(tmp_path), "--gpu", "abacus"]) == 2
    assert predict_client.main([str(tmp_path / "nowhere")]) == 2
    assert predict_client.main([str(tmp_path), "--no-such-flag", "1"]) == 2
    refusals = capsys.readouterr().err
    assert "'abacus'" in refusals and "config.json" in refusals and "no-such-flag" in refusals


@pytest.mark.parametrize(
    ("name", "id_"),
    [
        ("NVIDIA A100-SXM4-80GB", "a100-80"),
        ("A100-PCIE-40GB", "a100-40"),
        ("NVIDIA H100 80GB HBM3", "h100"),
        ("NVIDIA H100 NVL", "h100-nvl"),
        ("NVIDIA L40S", "l40s"),
        ("RTX PRO 6000 96GB", "rtx-pro-6000"),
        ("GB10 (DGX Spark, unified)", "gb10"),
    ],
)
def test_a_device_is_known_by_the_names_that_drivers_give_it(name: str, id_: str) -> None:
    assert find(name).name == id_


@pytest.mark.parametrize("name", ["A100", "abacus", ""])
def test_a_device_that_is_not_clear_is_refused(name: str) -> None:
    with pytest.raises(Refusal, match="device"):
        find(name)


def test_other_rows_and_configurations_are_taken(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "configs" / "somebody" / "Tiny"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(LLAMA))
    head = bench.TRUTH.read_text().splitlines()[0]
    line = "somebody/Tiny,0,H100,79.18,1,1,bfloat16,4096,0.9,0.01,1.0,524288,,vllm v0.17.1,here"
    (tmp_path / "rows.csv").write_text(f"{head}\n{line}\n")
    arguments = ["--truth", str(tmp_path / "rows.csv"), "--configs", str(tmp_path / "configs")]
    monkeypatch.setattr("sys.argv", ["predict", *arguments])
    bench.main()
    said = capsys.readouterr().out
    figures = [json.loads(each) for each in said.splitlines() if each.startswith("{")]
    values = {each["name"]: each["value"] for each in figures}
    assert values["predict.kv_tokens_err_max_pct"] == 0 and values["predict.rows_used"] == 1
    (tmp_path / "rows.csv").write_text("model,gpu\nx,y\n")
    with pytest.raises(SystemExit, match="gpu_mem_gib"):
        bench.main()


NAMES = ("Llama-3.1-8B-Instruct", "gpt-oss-20b", "Qwen3.5-35B-A3B", "DeepSeek-R1-AWQ")
MODELS = {name: reading.read(truth.configuration(bench.CONFIGS, name)) for name in NAMES}


@settings(max_examples=40, deadline=None)
@given(
    name=st.sampled_from(NAMES),
    engine=st.sampled_from(["0.6.4", "0.9.2", "0.11.0", "0.17.1", "0.26.0", "0.32.0"]),
    gpu=st.sampled_from(sorted(known())),
    ranks=st.sampled_from([1, 2, 4, 8]),
    length=st.integers(1, 32768),
    sequences=st.integers(1, 1024),
)
def test_what_must_hold_of_any_prediction(
    name: str, engine: str, gpu: str, ranks: int, length: int, sequences: int
) -> None:
    def ask(**changed: Any) -> Prediction:
        flags = {
            "max_model_len": length,
            "max_num_seqs": sequences,
            "tensor_parallel_size": ranks,
            "gpu_memory_utilization": 0.9,
        }
        asked = Question(MODELS[name], known()[gpu], Arguments(**flags | changed), engine)
        return predict(replace(asked, starts=learning.published()))

    found = ask()
    for need in (found.weights, found.activations, found.non_torch, found.graphs):
        assert 0 <= need.p50 <= need.p95
    for capacity in (found.kv_bytes, found.tokens, found.concurrency, found.longest):
        assert capacity.p95 <= capacity.p50
    assert found.request_bytes >= found.token_bytes * length
    if found.verdict is Verdict.FITS:
        assert found.concurrency.p95 >= 1 and found.kv_bytes.p95 > 0
        assert found.longest.p95 >= min(length, MODELS[name].max_position)
    assert ask(gpu_memory_utilization=0.95).kv_bytes.p50 > found.kv_bytes.p50
    assert ask(max_num_seqs=sequences + 512).kv_bytes.p50 <= found.kv_bytes.p50
