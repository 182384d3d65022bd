"""What each version of vLLM prints of its memory is read."""

from controlplane.placement.memory import startup_log

V0 = """
INFO 11-20 worker.py:267] model weights take 14.99GiB; non_torch_memory takes 0.35GiB; \
PyTorch activation peak memory takes 2.07GiB; \
the rest of the memory reserved for KV Cache is 3.81GiB.
INFO 11-20 executor_base.py:111] # cuda blocks: 1952, # CPU blocks: 4681
INFO 11-20 executor_base.py:116] Maximum concurrency for 20000 tokens per request: 1.56x
"""
V1 = """
(APIServer pid=1) INFO vLLM API server version 0.11.0
(Worker_TP0 pid=9) INFO gpu_model_runner.py:2653] Model loading took 33.88 GiB and 9.15 seconds
(Worker_TP1 pid=9) INFO gpu_model_runner.py:2653] Model loading took 33.90 GiB and 9.15 seconds
(Worker_TP0 pid=9) INFO gpu_worker.py:298] Available KV cache memory: 32.00 GiB
(Worker_TP1 pid=9) INFO gpu_worker.py:298] Available KV cache memory: 31.94 GiB
(EngineCore_DP0 pid=8) INFO kv_cache_utils.py:1087] GPU KV cache size: 204,640 tokens
(EngineCore_DP0 pid=8) INFO Maximum concurrency for 16,000 tokens per request: 12.79x
(Worker_TP0 pid=9) INFO Free memory on device (78.6/79.18 GiB) on startup. Desired GPU memory \
utilization is (0.9, 71.26 GiB). Actual usage is 33.88 GiB for weight, 4.84 GiB for peak \
activation, 0.55 GiB for non-torch memory, and -0.42 GiB for CUDAGraph memory.
"""
NEW = """
INFO Setting attention block size to 1072 tokens to ensure that attention page size is >= mamba
INFO Initializing a V1 LLM engine (v0.26.1rc1.dev156) with config: model='x'
INFO Actual usage is 57.26 GiB for consumed memory (weights + non-torch), 0.23 GiB for peak \
activation, 0.11 GiB for CUDAGraph memory.
INFO GPU KV cache size: 3,366,051 tokens, Maximum concurrency for 262,144 tokens per request: 12.84x
INFO Graph capturing finished in 4 secs, took 0.11 GiB
"""


def test_the_first_engine() -> None:
    found = startup_log.read(V0.splitlines())
    assert (found.weights_gib, found.kv_gib, found.blocks) == (14.99, 3.81, 1952)
    assert (found.non_torch_gib, found.activations_gib) == (0.35, 2.07)
    assert (found.max_model_len, found.concurrency) == (20000, 1.56)


def test_of_several_ranks_the_fullest_counts() -> None:
    found = startup_log.read(V1.splitlines())
    assert found.engine_version == "0.11.0"
    assert (found.weights_gib, found.kv_gib) == (33.90, 31.94)
    assert (found.kv_tokens, found.concurrency) == (204640, 12.79)
    assert (found.activations_gib, found.non_torch_gib, found.graphs_gib) == (4.84, 0.55, -0.42)


def test_a_new_engine() -> None:
    found = startup_log.read(NEW.splitlines())
    assert found.engine_version is not None and found.engine_version.startswith("0.26.1")
    assert (found.consumed_gib, found.activations_gib, found.graphs_gib) == (57.26, 0.23, 0.11)
    assert (found.kv_tokens, found.max_model_len, found.concurrency) == (3366051, 262144, 12.84)
    assert found.block_size == 1072 and found.weights_gib is None


def test_a_log_without_memory_says_nothing() -> None:
    assert startup_log.read(["INFO hello", ""]) == startup_log.Printed()
