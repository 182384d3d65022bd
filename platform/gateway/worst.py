"""The most that a request can use, before it is sent: what budgets reserve and limits take."""

from dataclasses import replace

import msgspec

from gateway.books import Worst
from gateway.errors import bad_request
from gateway.prices import TokenPrices
from gateway.request import Call
from gateway.sizes import Size
from gateway.usage import HEARD

_NO_LIMIT = 1 << 17  # output tokens, where neither the request nor a start report has a bound
# How long a file is nobody knows before it is decoded. vLLM hears no longer ones (its
# VLLM_MAX_AUDIO_DECODE_DURATION_S), a clip of 30 s after the other, which overlap by one at most;
# the bound on the output is each clip's.
_HEARD_S = 600
_CLIPS = -(-_HEARD_S // 29)
_COUNT = msgspec.json.Decoder(int | None)


def worst(call: Call, size: Size, max_model_len: int | None, prices: TokenPrices) -> Worst:
    """Raises 400 for a bound that is none."""
    if not call.operation.counts:
        return Worst(0, 0, 1, prices)
    choices = max(1, size.choices, _count(call, "best_of") or 1) * size.prompts
    prompt = size.most
    if call.operation.form:
        prompt += HEARD * _HEARD_S
        choices *= _CLIPS
    elif max_model_len is not None:
        window = max_model_len * size.prompts
        # What media become is not known, but they fit into the window or are refused.
        prompt = window if size.media else min(prompt, window)
    if not call.operation.output_limits:
        return Worst(prompt, 0, choices, prices)
    output = max_model_len or _NO_LIMIT
    for name in call.operation.output_limits:
        asked = _count(call, name)
        if asked is not None:
            output = min(output, max(1, asked))
            break
    return Worst(prompt, output * choices, choices, prices)


def clamp(call: Call, worst: Worst, output: int) -> Worst:
    """Let each choice have at most `output` tokens: what the budget buys."""
    for name in call.operation.output_limits:
        call.fields.pop(name, None)
    call.fields[call.operation.output_limits[0]] = msgspec.Raw(b"%d" % output)
    return replace(worst, output=output * worst.choices)


def _count(call: Call, name: str) -> int | None:
    raw = call.fields.get(name)
    if raw is None:
        return None
    try:
        found: int | None = _COUNT.decode(raw)
    except msgspec.DecodeError:
        raise bad_request("invalid_type", f"`{name}` must be a whole number.", name) from None
    return found
