from controlplane.fleet import wire
from workers.agent import startup_log

# As vLLM 0.32.0 printed them on a CPU.
CPU = """\
stoa 06:41:40 the engine starts
(APIServer pid=25491) INFO 11-23 06:41:41 [api_utils.py:347]        █     █     █▄   ▄█
(APIServer pid=25491) INFO 11-23 06:41:41 [api_utils.py:347]  ▄▄ ▄█ █     █     █ ▀▄▀ █  version 0.32.0
(APIServer pid=25491) INFO 11-23 06:41:41 [api_utils.py:290] non-default args: {'model_tag': '/m', 'block_size': 32, 'max_num_seqs': 32}
(APIServer pid=25491) INFO 11-23 06:41:41 [model.py:2152] Using max model len 4096
(EngineCore pid=25497) INFO 11-23 06:41:42 [core.py:133] Initializing a V1 LLM engine (v0.32.0) with config: model='/m', max_seq_len=4096
(EngineCore pid=25497) INFO 11-23 06:41:42 [weight_utils.py:1108] Filesystem type for checkpoints: EXT4. Checkpoint size: 0.00 GiB. Available RAM: 22.19 GiB.
(EngineCore pid=25497) INFO 11-23 06:41:42 [default_loader.py:501] Loading weights took 0.01 seconds
(EngineCore pid=25497) INFO 11-23 06:41:42 [cpu_worker.py:260] Explicitly set (0.25/6.71) GiB for KV cache on node 0.
(EngineCore pid=25497) INFO 11-23 06:41:42 [kv_cache_utils.py:2468] Auto-fit max_model_len: full model context length 4096 fits in available KV cache memory (0.25 GiB CPU)
(EngineCore pid=25497) INFO 11-23 06:41:42 [kv_cache_utils.py:2327] CPU KV cache size: 524,288 tokens, Maximum concurrency for 4,096 tokens per request: 128.00x
"""  # noqa: E501

# As the same version printed them on an H100 (80 GB HBM3, driver 580.159.04), Llama 3.1 8B.
GPU = """\
(APIServer pid=1139) INFO 11-26 20:26:52 [api_utils.py:347]  ▄▄ ▄█ █     █     █ ▀▄▀ █  version 0.32.0
(APIServer pid=1139) INFO 11-26 20:26:52 [model.py:2152] Using max model len 131072
(EngineCore pid=1146) INFO 11-26 20:26:53 [core.py:133] Initializing a V1 LLM engine (v0.32.0) with config: model='/m', max_seq_len=131072
(EngineCore pid=1146) INFO 11-26 20:26:53 [gpu_worker.py:518] Using V2 Model Runner
(EngineCore pid=1146) INFO 11-26 20:26:54 [flash_attn.py:1117] Using FlashAttention version 3
(EngineCore pid=1146) INFO 11-26 20:26:55 [weight_utils.py:1108] Filesystem type for checkpoints: EXT4. Checkpoint size: 14.96 GiB. Available RAM: 121.94 GiB.
(EngineCore pid=1146) INFO 11-26 20:26:58 [model_runner.py:424] Model loading took 15.0 GiB memory and 3.859069 seconds
(EngineCore pid=1146) INFO 11-26 20:27:11 [model_runner.py:1127] Graph capturing finished in 6 secs, took 0.61 GiB
(EngineCore pid=1146) INFO 11-26 20:27:12 [gpu_worker.py:759] Available KV cache memory: 55.28 GiB
(EngineCore pid=1146) INFO 11-26 20:27:12 [kv_cache_utils.py:2327] GPU KV cache size: 452,848 tokens, Maximum concurrency for 131,072 tokens per request: 3.45x
(EngineCore pid=1146) INFO 11-26 20:27:22 [model_runner.py:1127] Graph capturing finished in 9 secs, took 0.45 GiB
(EngineCore pid=1146) INFO 11-26 20:27:22 [gpu_worker.py:1034] Free memory on device (78.66/79.18 GiB) on startup. Desired GPU memory utilization is (0.92, 72.84 GiB). Actual usage is 15.8 GiB for consumed memory (weights + non-torch), 1.76 GiB for peak activation, and 0.45 GiB for CUDAGraph memory. Replace gpu_memory_utilization config with `--kv-cache-memory=58718850888` (54.69 GiB) to fit into requested memory, or `--kv-cache-memory=64967847424` (60.51 GiB) to fully utilize gpu memory. Current kv cache memory in use is 55.28 GiB.
"""  # noqa: E501


def test_reads_a_start_on_a_cpu() -> None:
    assert startup_log.parse(CPU.splitlines()) == wire.EngineReport(
        version="0.32.0",
        weights_bytes=None,  # "0.00 GiB" says nothing
        kv_cache_bytes=256 << 20,
        kv_cache_tokens=524_288,
        max_concurrency=128.0,
        max_model_len=4096,
        max_num_seqs=32,
    )


def test_reads_a_start_on_a_gpu() -> None:
    assert startup_log.parse(GPU.splitlines()) == wire.EngineReport(
        version="0.32.0",
        weights_bytes=15 << 30,
        kv_cache_bytes=round(55.28 * (1 << 30)),
        kv_cache_tokens=452_848,
        max_concurrency=3.45,
        max_model_len=131_072,
        activations_bytes=round(1.76 * (1 << 30)),
        graphs_bytes=round(0.61 * (1 << 30)),
        consumed_bytes=round(15.8 * (1 << 30)),
    )


# Of two ranks, and as other versions say it.
RANKS = """\
(Worker_TP0 pid=2) INFO 01-01 00:00:09 [gpu_model_runner.py:5150] Model loading took 7.51 GiB memory and 3.2 seconds
(Worker_TP1 pid=3) INFO 01-01 00:00:09 [gpu_model_runner.py:5150] Model loading took 7.55 GiB memory and 3.3 seconds
(Worker_TP0 pid=2) INFO 01-01 00:00:20 [gpu_worker.py:298] Available KV cache memory: 60.10 GiB
(Worker_TP1 pid=3) INFO 01-01 00:00:20 [gpu_worker.py:298] Available KV cache memory: 60.02 GiB
(Worker_TP0 pid=2) INFO 01-01 00:00:21 [gpu_worker.py:391] Free memory on device (78.7/79.18 GiB) on startup. Desired GPU memory utilization is (0.9, 71.26 GiB). Actual usage is 7.55 GiB for weight, 1.20 GiB for peak activation, 0.31 GiB for non-torch memory, and 0.42 GiB for CUDAGraph memory.
"""  # noqa: E501


def test_of_several_ranks_the_fullest_counts() -> None:
    assert startup_log.parse(RANKS.splitlines()) == wire.EngineReport(
        weights_bytes=round(7.55 * (1 << 30)),
        kv_cache_bytes=round(60.02 * (1 << 30)),
        activations_bytes=round(1.2 * (1 << 30)),
        non_torch_bytes=round(0.31 * (1 << 30)),
        graphs_bytes=round(0.42 * (1 << 30)),
    )


def test_a_line_of_what_was_consumed_is_read() -> None:
    line = "Actual usage is 15.42 GiB for consumed memory, 1.20 GiB for peak activation"
    assert startup_log.parse([line]).consumed_bytes == round(15.42 * (1 << 30))


def test_the_newest_start_counts() -> None:
    again = GPU + "stoa 07:00:00 the engine starts\n" + CPU.splitlines()[2]
    assert startup_log.parse(again.splitlines()) == wire.EngineReport(version="0.32.0")


def test_a_log_without_a_start_says_nothing() -> None:
    assert startup_log.parse(["Traceback (most recent call last):"]) == wire.EngineReport()
