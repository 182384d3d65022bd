"""A machine with NVIDIA GPUs, as far as the driver's library goes (fake_nvml.c)."""

import functools
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest

SOURCE = Path(__file__).with_name("fake_nvml.c")
GIB = 1 << 30


@functools.cache
def library() -> Path:
    """The folder with a libnvidia-ml.so.1, compiled once for each run."""
    compiler = shutil.which("cc") or pytest.skip("no C compiler (cc) for the driver's library")
    folder = Path(tempfile.mkdtemp(prefix="stoa-nvml-"))
    target = folder / "libnvidia-ml.so.1"
    command = [compiler, "-shared", "-fPIC", "-Wall", "-Werror", "-o", str(target), str(SOURCE)]
    subprocess.run(command, check=True)
    return folder


class FakeGpus:
    """The GPUs' state, in a file that the library reads at each call."""

    def __init__(self, folder: Path, count: int = 2) -> None:
        self.path = folder / "gpus.state"
        self.state: dict[str, str] = {"driver": "570.86.15", "cuda": "12080", "gpus": str(count)}
        for index in range(count):
            self.card(
                index,
                uuid=f"GPU-{index}",
                serial=f"16520240000{index}",
                name="NVIDIA H200",
                pci=f"00000000:{0x3B + index:02X}:00.0",
                memory=141 * GIB,
                used=1 * GIB,
                temperature=41,
                slowdown=90,
                remapped=0,
            )
        self.put()

    @property
    def environment(self) -> dict[str, str]:
        return {"LD_LIBRARY_PATH": str(library()), "FAKE_NVML_STATE": str(self.path)}

    def card(self, index: int, **figures: str | int) -> None:
        self.put(**{f"{index}.{name.replace('__', '.')}": value for name, value in figures.items()})

    def put(self, **figures: str | int) -> None:
        self.state |= {name: str(value) for name, value in figures.items()}
        draft = self.path.with_suffix(".new")
        draft.write_text("".join(f"{name} {value}\n" for name, value in self.state.items()))
        os.replace(draft, self.path)  # a reader finds the old file or the new one
