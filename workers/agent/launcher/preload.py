"""vLLM's imports, done once for every engine that is forked later.

It relies on names of vLLM that are not its public interface; the engine's lock pins the version,
and tests/agent start a real engine through it. Anything missing here only costs time: a fork
imports for itself what its standby did not.
"""

import gc
import importlib
import os
from collections.abc import Callable, Iterator
from typing import Any

# Without these no engine starts.
CORE = (
    "torch",
    "uvloop",
    "vllm.entrypoints.cli.serve",
    "vllm.entrypoints.launchers.api_server.entry",
    "vllm.entrypoints.launchers.app",
    "vllm.v1.engine.async_llm",
    "vllm.v1.engine.core",
    "vllm.v1.executor.uniproc_executor",
)
# What nearly every engine comes to sooner or later, the commonest first.
OPTIONAL = (
    "vllm.model_executor.models.llama",
    "vllm.model_executor.model_loader.default_loader",
    "vllm.tokenizers.hf",
    "vllm.renderers.hf",
    "vllm.v1.metrics.loggers",
    "vllm.v1.metrics.prometheus",
    "prometheus_fastapi_instrumentator",
    "uvicorn.lifespan.on",
    "uvicorn.loops.uvloop",
    "uvicorn.protocols.http.httptools_impl",
    "transformers.models.auto.tokenization_auto",
    "transformers.models.llama.modeling_llama",
    "vllm.model_executor.models.qwen2",
    "vllm.model_executor.models.qwen3",
    "vllm.tool_parsers.hermes_tool_parser",
    "xgrammar",
    "vllm.v1.structured_output.backend_xgrammar",
    "vllm.v1.executor.multiproc_executor",
    "vllm.lora.worker_manager",
    "torch._dynamo",
    "torch._inductor.compile_fx",
)
# What runs the model. Never the other platform's: vLLM's CPU worker, once imported, puts
# stand-ins in place of CUDA's streams and buffers, and no engine starts on a GPU after that.
CPU = (
    "vllm.v1.worker.cpu_worker",
    "vllm.v1.worker.cpu_model_runner",
    "vllm.v1.attention.backends.cpu_attn",
)
CUDA = (
    "vllm.v1.worker.gpu_worker",
    "vllm.v1.worker.gpu.model_runner",
    "vllm.v1.attention.backends.flash_attn",
)


def core() -> None:
    """Import what every engine needs. Raises ImportError and whatever vLLM raises."""
    # Collecting garbage while thousands of modules arrive finds none and costs seconds.
    gc.disable()
    for name in CORE:
        importlib.import_module(name)
    _tame_cpu_platform()
    _inspect_models_in_place()


def gpu_touched() -> bool:
    """Whether some import has initialised CUDA here; its state does not survive a fork."""
    import torch

    return bool(torch.cuda.is_initialized())


def optional() -> Iterator[Callable[[], None]]:
    """One step per module, so that the standby can look at its socket in between."""
    for name in (*_of_platform(), *OPTIONAL):
        yield lambda name=name: _attempt(name)  # type: ignore[misc]


def _of_platform() -> tuple[str, ...]:
    from vllm.platforms import current_platform

    if current_platform.is_cpu():
        return CPU
    return CUDA if current_platform.is_cuda() else ()


def _attempt(name: str) -> None:
    try:
        importlib.import_module(name)
    except Exception as error:  # a module for other hardware may raise anything
        print(f"not preloaded: {name}: {error!r:.160}", flush=True)


def _tame_cpu_platform() -> None:
    """Make vLLM's CPU platform fork its engine core, where it insists on spawning.

    A spawned core would import everything again. Also, the platform replaces Triton's kernels by
    walking every loaded module, which trips over numba's wrappers: so it is done here, once,
    before anything brings numba in.
    """
    from vllm.platforms import current_platform

    if not current_platform.is_cpu():
        return
    platform: Any = type(current_platform)
    platform.register_triton_kernel_overrides()
    platform.register_triton_kernel_overrides = classmethod(lambda cls: None)
    original = platform.check_and_update_config.__func__

    def check_and_update_config(cls: Any, config: Any) -> None:
        original(cls, config)
        os.environ["VLLM_WORKER_MULTIPROC_METHOD"] = "fork"

    platform.check_and_update_config = classmethod(check_and_update_config)


def _inspect_models_in_place() -> None:
    """Look at a model's class here and not in a subprocess that imports vLLM anew (11 s).

    vLLM does it apart so as not to touch the GPU in the parent; a fork of the standby may.
    """
    from vllm.model_executor.models import registry

    def inspect_model_cls(self: Any) -> Any:
        return registry._ModelInfo.from_model_cls(self.load_model_cls())

    registry._LazyRegisteredModel.inspect_model_cls = inspect_model_cls


def main() -> None:
    """Import all of it once and end."""
    core()
    for step in optional():
        step()
