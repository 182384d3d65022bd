"""What a step computes and moves, and how long it takes."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controlplane.placement.devices import known
from controlplane.placement.memory import weights
from controlplane.placement.memory.engine import Arguments, Behaviour
from controlplane.placement.memory.predict import served
from controlplane.placement.models import reading
from controlplane.placement.refusals import Refusal
from controlplane.placement.speed import factors, work
from controlplane.placement.speed.machine import Batch, Machine, machine
from controlplane.placement.speed.work import Work
from tests.benchmarks.speed.measured import CONFIGS, configuration

VERSION = Behaviour((0, 26, 0))


def counted(name: str, **flags: Any) -> Work:
    model = served(reading.read(configuration(name)), Arguments(**flags))
    device = known()["h100"]
    arguments = Arguments(max_model_len=4096, **flags)
    arguments = arguments.resolved(device, VERSION, model.max_position)
    return work.count(model, arguments, device, VERSION)


def made(name: str, gpu: str = "h100", **flags: Any) -> Machine:
    model = served(reading.read(configuration(name)), Arguments(**flags))
    device = known()[gpu]
    load = counted(name, **flags)
    return machine(load, device, model.quantization, factors.factors(model, device))


def test_a_dense_model_reads_all_but_its_embeddings() -> None:
    one = counted("Llama-3.1-8B-Instruct")
    embeddings = 128256 * 4096 * 2
    model = reading.read(configuration("Llama-3.1-8B-Instruct"))
    arguments = Arguments(max_model_len=4096).resolved(known()["h100"], VERSION, 4096)
    whole = weights.estimate(model, arguments, known()["h100"], VERSION).bytes.p50
    tables = 131072 * 128 * 2
    assert one.fixed_bytes == pytest.approx(whole - embeddings - tables, rel=1e-3)
    assert one.token_flops + one.head_flops == pytest.approx(
        2 * (8.03e9 - embeddings / 2), rel=0.01
    )
    assert one.cache_bytes(1000) == 131_072 * 1000  # the serving research's reference
    assert one.expert_bytes(100) == 0


def test_ranks_share_the_work() -> None:
    one, four = counted("Qwen3-32B"), counted("Qwen3-32B", tensor_parallel_size=4)
    assert four.token_flops == pytest.approx(one.token_flops / 4, rel=0.001)
    assert four.cache_bytes(500) == one.cache_bytes(500) / 4


def test_a_latent_cache_is_whole_on_each_rank() -> None:
    eight = counted("DeepSeek-R1", tensor_parallel_size=8)
    assert eight.cache_bytes(1) == 61 * 576 * 2


def test_few_tokens_read_few_experts() -> None:
    sparse = counted("Qwen3-235B-A22B-FP8", tensor_parallel_size=4)
    assert sparse.expert_bytes(1) == pytest.approx(sparse.routed_bytes * 8 / 128)
    assert sparse.expert_bytes(500) == pytest.approx(sparse.routed_bytes, rel=1e-6)
    active = 2 * 22e9 / 4
    assert sparse.token_flops + sparse.routed_flops == pytest.approx(active, rel=0.1)


def test_a_window_bounds_what_is_read() -> None:
    windowed = counted("gpt-oss-20b")
    near, far = windowed.cache_bytes(1000), windowed.cache_bytes(2000)
    full = 12 * 8 * 64 * 2 * 2  # of a token in the layers that look at everything
    assert far - near == full * 1000


@given(st.integers(1, 200), st.integers(1, 4000), st.integers(0, 4000))
def test_more_work_never_takes_less_time(decoding: int, context: int, prompt: int) -> None:
    one = made("Llama-3.1-8B-Instruct")
    took = one.seconds(Batch(decoding, context, prompt, 0, bool(prompt)))
    assert took <= one.seconds(Batch(decoding + 1, context, prompt, 0, bool(prompt)))
    assert took <= one.seconds(Batch(decoding, context + 1, prompt, 0, bool(prompt)))
    assert took <= one.seconds(Batch(decoding, context, prompt + 100, 0, 1))
    assert took >= one.work.fixed_bytes / one.device.memory_bytes_s


def test_a_faster_memory_and_more_ranks_decode_faster() -> None:
    batch = Batch(16, 1000)
    assert made("Qwen3-32B", "h200").seconds(batch) < made("Qwen3-32B").seconds(batch)
    two = made("Qwen3-32B", tensor_parallel_size=2).seconds(batch)
    assert made("Qwen3-32B").seconds(batch) / 2 < two < made("Qwen3-32B").seconds(batch)


def test_fp8_computes_faster_only_where_the_device_can() -> None:
    prompt = Batch(0, 0, 8192, 0, 1)
    hopper = made("Qwen3-32B").seconds(prompt) / made("Qwen3-32B", quantization="fp8").seconds(
        prompt
    )
    ampere = made("Qwen3-32B", "a100-80").seconds(prompt)
    assert hopper > 1.4
    assert made("Qwen3-32B", "a100-80", quantization="fp8").seconds(prompt) > 0.9 * ampere


def test_the_host_bus_makes_ranks_wait() -> None:
    decoding = Batch(1, 100)
    alone = made("Qwen3-14B", "l40s")
    both = made("Qwen3-14B", "l40s", tensor_parallel_size=2)
    nvlink = replace(both, device=replace(both.device, link_bytes_s=450e9))
    assert nvlink.seconds(decoding) < both.seconds(decoding) < alone.seconds(decoding)


CONFIGURED = sorted(file.stem for folder in CONFIGS for file in folder.glob("*.json"))


@pytest.mark.parametrize("name", CONFIGURED)
def test_every_model_that_is_known_has_a_speed(name: str) -> None:
    """Hybrids, towers, windows, latent caches, each quantisation: between physics and patience."""
    one = made(name, "h200")
    took = one.seconds(Batch(8, 2000))
    least = one.work.fixed_bytes / one.device.memory_bytes_s
    assert least < took < 1.0
    assert one.seconds(Batch(8, 2000, 512, 0, 1)) > took


def test_what_is_not_known_of_a_device_is_refused() -> None:
    model = reading.read(configuration("Qwen3-14B"))
    unknown = known()["gb10"]
    with pytest.raises(Refusal, match="gb10"):
        machine(counted("Qwen3-14B"), unknown, model.quantization, factors.factors(model, unknown))


def test_each_figure_has_two_sources_and_each_factor_one() -> None:
    priced = [each for each in known().values() if each.throughput is not None]
    assert len(priced) >= 10
    for each in priced:
        assert each.throughput is not None and len(each.throughput.sources) >= 2, each.name
        assert each.throughput.memory_bytes_s < 1e13 and each.throughput.bf16_flops < 1e16
        model = reading.read(configuration("Qwen3-235B-A22B-FP8"))
        assert factors.factors(model, each).sources


def test_what_was_not_measured_has_a_wider_margin() -> None:
    dense = reading.read(configuration("Qwen3-14B"))
    sparse = reading.read(configuration("Qwen3-235B-A22B-FP8"))
    hopper, cdna = known()["h100"], known()["mi300x"]
    assert factors.factors(dense, hopper).margin < factors.factors(dense, cdna).margin
    assert factors.factors(dense, hopper).margin < factors.factors(sparse, hopper).margin
