"""What a config.json may hold before anybody computes with it: whoever uploads one wrote it.

A prediction goes through the layers one by one, so that a count of a billion would take all memory.
"""

import json
from typing import Any

from controlplane.placement.refusals import Refusal

MOST_BYTES = 256 << 10
MOST_LAYERS = 256  # twice as many as the deepest models have
MOST = 1 << 48  # of any number
_DEPTH = 12
_EACH_LAYER = (  # an entry for each: without another count these say how many there are
    *("layer_types", "layers_block_type", "attn_layer_types"),
    *("hybrid_override_pattern", "hybrid_layer_pattern"),
)


def parsed(text: str | bytes) -> dict[str, Any]:
    """The configuration. Raises `Refusal` where it is none, or nobody's model."""
    if len(text) > MOST_BYTES:
        raise Refusal(f"a config.json of at most {MOST_BYTES >> 10} KiB")
    try:
        # Infinity stands in some of Mamba's, and says nothing of its size.
        found = json.loads(text, parse_constant=lambda _: None)
    except (ValueError, RecursionError):
        raise Refusal("a config.json that is JSON") from None
    if not isinstance(found, dict):
        raise Refusal("a config.json that holds an object")
    _check(found, "config.json", 0)
    return found


def _check(value: Any, name: str, depth: int) -> None:
    if depth > _DEPTH:
        raise Refusal("a config.json that is less nested")
    counts = name.endswith(("layer", "layers", "depth"))  # how many there are of something
    if isinstance(value, dict):
        for key, inner in value.items():
            _check(key, "", depth)
            _check(inner, key.lower(), depth + 1)
    elif isinstance(value, list | str) and name in _EACH_LAYER and len(value) > MOST_LAYERS:
        raise Refusal(f"at most {MOST_LAYERS} entries as {name[:64]} in config.json")
    elif isinstance(value, list):
        for inner in value:
            _check(inner, name, depth + 1)
    elif isinstance(value, str):
        if "\0" in value or any("\ud800" <= mark <= "\udfff" for mark in value):
            raise Refusal("a config.json of whole characters")
    elif isinstance(value, int | float):
        most = MOST_LAYERS if counts else MOST
        if not -most <= value <= most:  # nor a NaN
            raise Refusal(f"a plausible {name[:64]} in config.json, not {value!r:.40}")
