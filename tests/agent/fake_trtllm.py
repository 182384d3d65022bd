"""`trtllm-serve` as NVIDIA documents it, without a model: argv is what follows the program.

Flags that it does not know, and settings that LlmArgs does not have, end it with a message, as
they end the real one. It listens only when it is loaded. /metrics gives the iterations since it was
last asked, at most two, and forgets them. A request whose prompt is a path waits for that file.
"""

import argparse
import json
import sys
import threading
from collections import deque
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

LLM_ARGS = {
    **{"max_batch_size": int, "max_num_tokens": int, "max_seq_len": int, "dtype": str},
    **{"tensor_parallel_size": int, "pipeline_parallel_size": int},
    **{"moe_expert_parallel_size": int, "attn_backend": str, "guided_decoding_backend": str},
    **{"enable_chunked_prefill": bool, "disable_overlap_scheduler": bool},
    **{"enable_iter_perf_stats": bool, "kv_cache_config": dict, "cuda_graph_config": dict},
}
NESTED = {
    "kv_cache_config": {
        **{"free_gpu_memory_fraction": float, "max_tokens": int, "dtype": str},
        **{"tokens_per_block": int, "enable_block_reuse": bool},
    },
    "cuda_graph_config": {"max_batch_size": int, "enable_padding": bool, "batch_sizes": list},
}
NULLABLE = {"cuda_graph_config"}


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, address: tuple[str, int], model: str, stats: bool) -> None:
        super().__init__(address, Handler)
        self.model, self.stats = model, stats
        self.iterations: deque[dict[str, Any]] = deque(maxlen=1000)
        self.active = self.iteration = 0
        self.lock = threading.Lock()

    def step(self, change: int) -> None:
        with self.lock:
            self.active += change
            self.iteration += 1
            if self.stats:
                self.iterations.append(
                    {
                        "iter": self.iteration,
                        "iterLatencyMS": 7.0,
                        "gpuMemUsage": 76665782272,
                        "numActiveRequests": self.active,
                        "numQueuedRequests": max(0, self.active - 1),
                        "kvCacheStats": {"usedNumBlocks": 3 * self.active, "maxNumBlocks": 12},
                    }
                )

    def taken(self) -> list[dict[str, Any]]:
        with self.lock:
            return [self.iterations.popleft() for _ in range(min(2, len(self.iterations)))]


class Handler(BaseHTTPRequestHandler):
    server: Server
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        if self.path == "/health":
            return self.answer(200, b"")
        if self.path == "/version":
            return self.answer(200, json.dumps({"version": "1.2.1"}).encode())
        if self.path == "/v1/models":
            return self.answer(200, json.dumps({"data": [{"id": self.server.model}]}).encode())
        if self.path == "/metrics":
            return self.answer(200, json.dumps(self.server.taken()).encode())
        return self.answer(404, b"{}")

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        self.server.step(1)
        try:
            prompt = str(body.get("prompt") or body.get("messages"))
            while prompt.startswith("/") and not Path(prompt).exists():
                threading.Event().wait(0.01)
            self.answer(*self.inference(body))
        finally:
            self.server.step(-1)

    def inference(self, body: dict[str, Any]) -> tuple[int, bytes]:
        if self.path == "/v1/completions":
            choice: dict[str, Any] = {"text": "yes", "finish_reason": "stop"}
        elif self.path == "/v1/chat/completions":
            content = '{"ok": true}' if "response_format" in body else "yes"
            choice = {"message": {"role": "assistant", "content": content}}
        else:
            return 404, b"{}"
        usage = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
        told = {"model": self.server.model, "choices": [choice], "usage": usage}
        return 200, json.dumps(told).encode()

    def answer(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Access is none of its log."""


def load(text: str) -> Any:
    """YAML; in an image of ours, which holds Python alone, JSON, which our configuration is."""
    try:
        import yaml
    except ImportError:
        return json.loads(text)
    return yaml.safe_load(text)


def flaws(config: dict[str, Any]) -> list[str]:
    """What LlmArgs would refuse of a configuration."""
    found = []
    for name, value in config.items():
        if name not in LLM_ARGS:
            found.append(f"{name}: Extra inputs are not permitted")
        elif value is None and name in NULLABLE:
            continue
        elif type(value) is not LLM_ARGS[name]:
            found.append(f"{name}: Input should be a valid {LLM_ARGS[name].__name__}")
        for inner, given in (value if isinstance(value, dict) else {}).items():
            kind = NESTED[name].get(inner)
            if kind is None or type(given) is not kind:
                found.append(f"{name}.{inner}: not permitted, or of another type")
    return found


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser("trtllm-serve", allow_abbrev=False)
    parser.add_argument("model")
    parser.add_argument("--host", default="localhost")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--config", "--extra_llm_api_options")
    parser.add_argument("--tool_parser", choices=["qwen3", "deepseek_v3"])
    parser.add_argument("--reasoning_parser", choices=["qwen3", "deepseek-r1"])
    parser.add_argument("--chat_template")
    given = parser.parse_args(argv)
    config = load(Path(given.config).read_text()) if given.config else {}
    if wrong := flaws(config):
        sys.exit("pydantic_core.ValidationError: TorchLlmArgs: " + "; ".join(wrong))
    if not (Path(given.model) / "config.json").exists():
        sys.exit(f"ValueError: {given.model} is no checkpoint")
    name = Path(given.model).name
    stats = bool(config.get("enable_iter_perf_stats"))
    with Server((given.host, given.port), name, stats) as server:
        server.serve_forever(poll_interval=0.05)


if __name__ == "__main__":
    main(sys.argv[1:])
