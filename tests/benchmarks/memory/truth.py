"""Rows of measured starts: what they state, and what is asked of a prediction about each."""

import csv
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

from controlplane.placement import devices
from controlplane.placement.devices import GIB, Device
from controlplane.placement.memory.engine import Arguments
from controlplane.placement.models import reading
from controlplane.placement.models.model import Model
from controlplane.placement.models.quantization import Quantization
from controlplane.placement.refusals import Refusal

# What a row's words for a quantisation mean, where its configuration says nothing of one.
LAYOUTS = {
    "nvfp4": Quantization("nvfp4", 4, group=16),
    "mxfp4": Quantization("mxfp4", 4, group=32, experts_only=True),
    "awq": Quantization("awq", 4, zeros=True),
    "gptq": Quantization("gptq", 4),
    "int4": Quantization("packed", 4),
    "int8": Quantization("int8_channel", 8),
    "w8a8": Quantization("int8_channel", 8),
    "fp8": Quantization("fp8_channel", 8),
    "bitsandbytes": Quantization("bitsandbytes_4bit", 4),
    "bnb": Quantization("bitsandbytes_4bit", 4),
}
OWN = Path(__file__).parent / "configs"
FAILED = re.compile(r"\bfails\b|expected failure|no KV room", re.IGNORECASE)


@dataclass(frozen=True)
class Row:
    """One line of the file. None: not stated."""

    line: int
    model: str
    gpu: str
    memory_gib: float | None
    ranks: int
    stages: int
    dtype: str
    max_model_len: int | None
    utilization: float | None
    weights_gib: float | None
    kv_gib: float | None
    kv_tokens: int | None
    concurrency: float | None
    flags: str
    source: str

    @property
    def version(self) -> str | None:
        found = re.search(
            r"\b(?:v|vllm )(0\.\d+(?:\.(?:\d+|x))?(?:\.?(?:post|rc)\d+)?)", self.flags
        )
        return found[1].replace(".x", "") if found else None

    @property
    def release(self) -> str:
        """Of the version, without its patch: what is left out when the row is predicted."""
        return ".".join((self.version or "").split(".")[:2])

    @property
    def failed(self) -> bool:
        return FAILED.search(self.flags) is not None

    def stated(self, *names: str) -> float | None:
        for name in names:
            if found := re.search(
                rf"\b{name}(?:\s*=\s*|\s+(?:default\s+)?)(-?[\d.]+\d|\d)", self.flags
            ):
                return float(found[1])
        return None

    @property
    def device(self) -> Device:
        """Named as the product does where it knows it; the row's own memory."""
        if self.memory_gib is None:
            raise Refusal("the device's memory")
        try:
            known = devices.find(self.gpu)
        except Refusal:
            known = Device(self.gpu, 0)
        return replace(known, memory_bytes=int(self.memory_gib * GIB))

    def arguments(self) -> Arguments:
        sequences = self.stated("max_num_seqs")
        batched = self.stated("max_num_batched_tokens", "mbt")
        block = self.stated("block_size")
        drafted = re.search(r"MTP(\d)", f"{self.model} {self.flags}")
        cached = re.search(r"\bkv(?:_cache_dtype)?[ =](fp8\w*)", f"{self.dtype}; {self.flags}")
        pooling = re.search(r"embed|rerank|pooling", f"{self.model} {self.flags}", re.IGNORECASE)
        return Arguments(
            max_model_len=self.max_model_len,
            gpu_memory_utilization=self.utilization,
            tensor_parallel_size=self.ranks,
            pipeline_parallel_size=self.stages,
            decode_context_parallel_size=int(self.stated("decode_context_parallel_size") or 1),
            max_num_seqs=int(sequences) if sequences else None,
            max_num_batched_tokens=int(batched) if batched else None,
            block_size=int(block) if block else None,
            kv_cache_dtype=cached[1] if cached else "auto",
            runner="pooling" if pooling else "auto",
            enable_prefix_caching=True if "prefix caching" in self.flags else None,
            enable_expert_parallel="enable_expert_parallel" in self.flags,
            language_model_only="language_model_only" in self.flags,
            enforce_eager=bool(re.search(r"\beager\b|enforce_eager", self.flags)),
            speculative_method="mtp" if drafted else None,
            num_speculative_tokens=int(drafted[1]) if drafted else 0,
        )


COLUMNS = (
    *("model", "gpu", "gpu_mem_gib", "tp", "pp", "dtype/quant", "max_model_len"),
    *("gpu_memory_utilization", "weights_gib", "kv_gib", "kv_tokens", "max_concurrency"),
    *("other_flags", "source_url"),
)


class NotRows(ValueError):
    """The file is no file of measured starts; the message is for a person."""


def rows(path: Path) -> list[Row]:
    with path.open(newline="") as file:
        reader = csv.DictReader(file)
        if missing := [name for name in COLUMNS if name not in (reader.fieldnames or [])]:
            raise NotRows(f"{path} has no column {', '.join(missing)}")
        return [_checked(path, number, each) for number, each in enumerate(reader, start=2)]


def _checked(path: Path, line: int, each: dict[str, str]) -> Row:
    try:
        return _row(line, {name: each[name] or "" for name in COLUMNS})
    except ValueError as error:
        raise NotRows(f"{path}, line {line}: {error}") from None


def _number(text: str) -> float | None:
    return float(text.replace(",", "")) if text.strip() else None


def _whole(text: str) -> int | None:
    value = _number(text)
    return None if value is None else int(value)


def _row(line: int, each: dict[str, str]) -> Row:
    return Row(
        line=line,
        model=each["model"].strip(),
        gpu=each["gpu"],
        memory_gib=_number(each["gpu_mem_gib"]),
        ranks=_whole(each["tp"]) or 1,
        stages=_whole(each["pp"]) or 1,
        dtype=each["dtype/quant"],
        max_model_len=_whole(each["max_model_len"]),
        utilization=_number(each["gpu_memory_utilization"]),
        weights_gib=_number(each["weights_gib"]),
        kv_gib=_number(each["kv_gib"]),
        kv_tokens=_whole(each["kv_tokens"]),
        concurrency=_number(each["max_concurrency"]),
        flags=each["other_flags"],
        source=each["source_url"],
    )


def names(model: str) -> Iterator[str]:
    """Under which a row's model may be kept: as it is called, then without what was added."""
    yield model
    plain = model.split("/")[-1]
    yield plain
    plain = plain.split(" + ")[0].strip()
    yield plain
    if found := re.search(r"\(([^)]*)\)", plain):
        yield found[1]
    yield re.sub(r"\s*\(.*", "", plain)


def configuration(directory: Path, model: str) -> dict[str, object]:
    """The config.json that a folder has for a model, or else this one's own.

    `NAME.json` or `NAME/config.json`, with the organization before it or not.
    """
    for place in (directory, OWN):
        kept = _kept(place)
        for name in names(model):
            if (file := kept.get(_plain(name))) is not None:
                stated: dict[str, object] = json.loads(file.read_text())
                return stated
    raise Refusal("the model's config.json")


@cache
def _kept(directory: Path) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for file in sorted(directory.rglob("*.json")):
        name = file.relative_to(directory).as_posix()
        name = name.removesuffix("/config.json").removesuffix(".json")
        found[_plain(name)] = file
        found.setdefault(_plain(name.split("/")[-1]), file)
    return found


def _plain(name: str) -> str:
    """Without what file systems and hubs write differently."""
    return name.lower().replace("/", "--").replace("__", "--")


def model(directory: Path, row: Row) -> Model:
    found = reading.read(configuration(directory, row.model))
    if "draft" in row.model.lower():
        raise Refusal("the draft model's config.json")
    if found.quantization.scheme != "none":
        return found
    # A row may name a quantisation that the configuration it comes with does not have.
    for name, layout in LAYOUTS.items():
        if name in row.dtype.split(";")[0].lower():
            return replace(found, quantization=replace(layout, sure=False))
    return found
