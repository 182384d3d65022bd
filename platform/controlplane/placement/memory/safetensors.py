"""Exact sizes of a checkpoint's tensors, from its safetensors headers or their index."""

import json
import struct
from typing import Any, BinaryIO

from controlplane.placement.refusals import Refusal

MOST_HEADER_BYTES = 100_000_000  # the format's own bound


def sizes(stream: BinaryIO) -> dict[str, int]:
    """Bytes by tensor of one file, of which only the header is read. Raises `Refusal`."""
    length = stream.read(8)
    if len(length) != 8:
        raise Refusal("the header of a safetensors file")
    (count,) = struct.unpack("<Q", length)
    if not 0 < count <= MOST_HEADER_BYTES:
        raise Refusal("the header of a safetensors file")
    try:
        header = json.loads(stream.read(count))
        return {
            name: int(said["data_offsets"][1]) - int(said["data_offsets"][0])
            for name, said in header.items()
            if name != "__metadata__"
        }
    except (ValueError, KeyError, TypeError, IndexError):
        raise Refusal("the header of a safetensors file") from None


def of_index(index: dict[str, Any]) -> int:
    """All bytes that a model.safetensors.index.json states; some of them may not be loaded."""
    total = (index.get("metadata") or {}).get("total_size")
    if not isinstance(total, int | float) or total <= 0:
        raise Refusal("metadata.total_size in the safetensors index")
    return int(total)
