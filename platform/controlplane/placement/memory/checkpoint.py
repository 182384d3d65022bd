"""What the files of a model say of its size: its config.json, and the headers of its weights."""

import contextlib
import json
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import BinaryIO

from controlplane.placement.memory import safetensors
from controlplane.placement.models.plausible import MOST_BYTES
from controlplane.placement.refusals import Refusal

CONFIG = "config.json"
INDEX = "model.safetensors.index.json"
OTHER_FORMAT = "consolidated"  # Mistral's own names, for the same weights once more
MOST_HEADER_BYTES = 16 << 20  # of a file; the largest that there are have one
MOST_INDEX_BYTES = 64 << 20


@dataclass(frozen=True)
class Checkpoint:
    """`config` as it stands there, empty where there is none or it is too long; `tensors`: bytes by
    group (`safetensors.summed`), empty where they are not known."""

    config: str = ""
    tensors: dict[str, int] = field(default_factory=dict)


def read(names: Collection[str], opened: Callable[[str], BinaryIO]) -> Checkpoint:
    """Of the files in a model's folder. What cannot be read is not known; nothing is raised."""
    config = ""
    with contextlib.suppress(OSError, UnicodeDecodeError):
        config = (_text(opened, CONFIG, MOST_BYTES) if CONFIG in names else b"").decode()
    sizes: dict[str, int] = {}
    try:
        for name in weight_files(names, opened):
            with opened(name) as stream:
                sizes |= safetensors.sizes(stream, MOST_HEADER_BYTES)
    except (OSError, Refusal):
        sizes = {}
    return Checkpoint(config, safetensors.summed(sizes))


def weight_files(names: Collection[str], opened: Callable[[str], BinaryIO]) -> list[str]:
    """Those that the engine reads: as the index has it, else all that lie there."""
    there = sorted(name for name in names if name.endswith(".safetensors") and "/" not in name)
    if INDEX in names:
        with contextlib.suppress(
            ValueError, LookupError, AttributeError, TypeError, RecursionError
        ):
            index = json.loads(_text(opened, INDEX, MOST_INDEX_BYTES))
            listed = {str(name) for name in index["weight_map"].values()}
            return [name for name in there if name in listed]
    return [name for name in there if not name.startswith(OTHER_FORMAT)] or there


def _text(opened: Callable[[str], BinaryIO], name: str, most: int) -> bytes:
    """Empty where it is longer than that."""
    with opened(name) as stream:
        found = stream.read(most + 1)
    return found if len(found) <= most else b""
