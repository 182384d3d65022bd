"""Exact sizes of a checkpoint's tensors, from its safetensors headers or their index."""

import json
import struct
from collections.abc import Mapping
from typing import Any, BinaryIO

from controlplane.placement.refusals import Refusal

MOST_HEADER_BYTES = 100_000_000  # the format's own bound
DRAFT = "mtp."  # begins the names of a prediction head of its own
HEAD = "lm_head.weight"


def sizes(stream: BinaryIO, most: int = MOST_HEADER_BYTES) -> dict[str, int]:
    """Bytes by tensor of one file, of which only the header is read, up to `most` bytes of it.

    Raises `Refusal`.
    """
    length = stream.read(8)
    if len(length) != 8:
        raise Refusal("the header of a safetensors file")
    (count,) = struct.unpack("<Q", length)
    if not 0 < count <= most:
        raise Refusal("the header of a safetensors file")
    try:
        header = json.loads(stream.read(count))
        found = {
            name: int(said["data_offsets"][1]) - int(said["data_offsets"][0])
            for name, said in header.items()
            if name != "__metadata__"
        }
    except (ValueError, KeyError, TypeError, IndexError, AttributeError, RecursionError):
        raise Refusal("the header of a safetensors file") from None
    if any(size < 0 for size in found.values()):
        raise Refusal("the header of a safetensors file")
    return found


def layer_of(name: str) -> int:
    """The layer of the language model that a tensor is of; -1: of none."""
    before, found, after = name.partition("layers.")
    number = after.split(".")[0]
    inside = "visual" in before or "vision" in before or "encoder" in before
    return int(number) if found and number.isdigit() and not inside else -1


def summed(sizes: Mapping[str, int]) -> dict[str, int]:
    """The sizes in as few groups as tell what loads (`weights.loaded`): a hundred, not thousands.

    The names of groups are such that they fall into the same groups again.
    """
    found: dict[str, int] = {}
    for name, size in sizes.items():
        group = _group(name)
        found[group] = found.get(group, 0) + size
    return found


def visual(name: str) -> bool:
    return ".visual." in name or name.startswith("vision_")


def _group(name: str) -> str:
    layer = layer_of(name)
    parts = (
        DRAFT if name.startswith(DRAFT) else "",
        f"layers.{layer}." if layer >= 0 else "",
        "x.visual." if visual(name) else "",
        HEAD if name.endswith(HEAD) else "",
    )
    return "".join(parts) or "rest"


def of_index(index: dict[str, Any]) -> int:
    """All bytes that a model.safetensors.index.json states; some of them may not be loaded."""
    total = (index.get("metadata") or {}).get("total_size")
    if not isinstance(total, int | float) or total <= 0:
        raise Refusal("metadata.total_size in the safetensors index")
    return int(total)
