"""An engine's own counters, read where only its node can: on its unix socket."""

import re
from dataclasses import dataclass, field

import httpx

_SAMPLE = re.compile(r"^vllm:(\w+)\{[^}]*\} (\S+)$", re.MULTILINE)


@dataclass(frozen=True)
class Counters:
    prompt_tokens: int
    generation_tokens: int
    running: int
    succeeded: int
    steps: int = field(default=0, compare=False)  # forward passes, each of all sequences that run


def counters(socket: str) -> Counters:
    """All models of the engine together: the endpoint's own and its adapters."""
    transport = httpx.HTTPTransport(uds=socket)
    with httpx.Client(transport=transport, timeout=30) as http:
        text = http.get("http://engine/metrics").text
    sums: dict[str, float] = {}
    for name, value in _SAMPLE.findall(text):
        sums[name] = sums.get(name, 0.0) + float(value)
    return Counters(
        prompt_tokens=round(sums["prompt_tokens_total"]),
        generation_tokens=round(sums["generation_tokens_total"]),
        running=round(sums["num_requests_running"] + sums["num_requests_waiting"]),
        succeeded=round(sums["request_success_total"]),
        steps=round(sums["iteration_tokens_total_count"]),
    )
