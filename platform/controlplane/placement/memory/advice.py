"""What would make it fit: each change is predicted before it is advised."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from controlplane.placement.devices import Device
from controlplane.placement.memory.predict import Prediction, Question, Verdict, predict, smallest
from controlplane.placement.refusals import Refusal

MOST_UTILIZATION = 0.95
FEW_SEQUENCES = 64


@dataclass(frozen=True)
class Change:
    """`argument` and its `value` as vLLM names them, or `device`."""

    argument: str
    value: str
    kv_bytes: float
    concurrency: float

    def __str__(self) -> str:
        return f"fits with {self.argument}={self.value} ({self.concurrency:.2f} requests at once)"


def changes(question: Question, devices: Sequence[Device]) -> list[Change]:
    """Single changes that turn "does not fit" into "fits", least first; empty: none does."""
    found = []
    for argument, value, tried in _candidates(question):
        try:
            prediction = predict(tried)
        except Refusal:
            continue
        if prediction.verdict is Verdict.FITS:
            found.append(_change(argument, value, prediction))
    if (least := smallest(question, devices)) is not None:
        device, ranks = least
        arguments = replace(question.arguments, tensor_parallel_size=ranks)
        prediction = predict(
            replace(question, device=device, arguments=arguments, weights_bytes=None)
        )
        found.append(_change("device", f"{ranks} x {device.name}", prediction))
    return found


def _change(argument: str, value: str, prediction: Prediction) -> Change:
    return Change(argument, value, prediction.kv_bytes.p95, prediction.concurrency.p95)


def _candidates(question: Question) -> Iterator[tuple[str, str, Question]]:
    now = predict(question)
    given = now.arguments

    def with_(**changed: Any) -> Question:
        return replace(question, arguments=replace(question.arguments, **changed))

    if now.longest.p95 >= 1:
        length = int(now.longest.p95)
        yield "max_model_len", str(length), with_(max_model_len=length)
    if (given.max_num_seqs or 0) > FEW_SEQUENCES:
        yield "max_num_seqs", str(FEW_SEQUENCES), with_(max_num_seqs=FEW_SEQUENCES)
    if (given.gpu_memory_utilization or 0) < MOST_UTILIZATION:
        text = str(MOST_UTILIZATION)
        yield "gpu_memory_utilization", text, with_(gpu_memory_utilization=MOST_UTILIZATION)
    if given.kv_cache_dtype == "auto":
        yield "kv_cache_dtype", "fp8", with_(kv_cache_dtype="fp8")
    if question.model.towers and not given.language_model_only:
        yield "language_model_only", "true", with_(language_model_only=True)
    for ranks in (2, 4, 8):
        if ranks > given.tensor_parallel_size:
            # What was reported of one device says nothing of a share of it.
            tried = replace(with_(tensor_parallel_size=ranks), weights_bytes=None)
            yield "tensor_parallel_size", str(ranks), tried
