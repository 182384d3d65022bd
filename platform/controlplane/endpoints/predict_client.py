"""`stoa predict MODEL`: does it fit, and what would make it? From files of this machine alone.

MODEL is a folder with a config.json (and, for exact weights, its safetensors files or their
index), or a config.json. With --load or --job: on what it runs best, and for how much. What is
missing is named, and nothing is guessed: exit code 2. What does not fit ends with exit code 1.
"""

import argparse
import json
import math
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from controlplane.endpoints import quote_client
from controlplane.placement import devices
from controlplane.placement.devices import GIB
from controlplane.placement.memory import (
    advice,
    engine,
    learning,
    safetensors,
    startup_log,
    weights,
)
from controlplane.placement.memory.engine import Arguments
from controlplane.placement.memory.estimates import Estimate
from controlplane.placement.memory.predict import (
    Prediction,
    Question,
    Verdict,
    learned,
    predict,
    smallest,
)
from controlplane.placement.models import reading
from controlplane.placement.models.model import Model
from controlplane.placement.refusals import Refusal

DEFAULT_DEVICE = "h100"
DEFAULT_VERSION = ".".join(str(part) for part in engine.LATEST)
FIT, NO_FIT, REFUSED = 0, 1, 2


def main(argv: Sequence[str]) -> int:
    chosen, rest = _parser().parse_known_args(argv)
    try:
        gpu = chosen.gpu or DEFAULT_DEVICE
        place = Path(chosen.model)
        asked = question(place, gpu.split(",")[0], chosen.engine_version, _flags(rest))
        if chosen.load or chosen.job:
            quoted = quote_client.told(asked, chosen.model, chosen)
            print(
                json.dumps(quoted.facts, indent=1)
                if chosen.json
                else quote_client.text(quoted.facts)
            )
            return FIT if quoted.fits else NO_FIT
        asked = asked if chosen.log is None else taught(asked, chosen.log)
        found = predict(asked)
        changes = [] if found.verdict is Verdict.FITS else advice.changes(asked, _devices())
        least = smallest(asked, _devices())
    except Refusal as refusal:
        print(f"stoa predict: it takes {refusal.fact}", file=sys.stderr)
        return REFUSED
    told = facts(asked, found, changes, least)
    print(json.dumps(finite(told), indent=1) if chosen.json else text(told))
    return NO_FIT if found.verdict is Verdict.DOES_NOT_FIT else FIT


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="stoa predict",
        description=__doc__,
        epilog="Any other argument is vLLM's own: --max-model-len, --max-num-seqs, …",
        allow_abbrev=False,
    )
    parser.add_argument("model", metavar="MODEL", help="folder with a config.json")
    parser.add_argument("--gpu", help=f"of {', '.join(devices.known())}; h100, or all for a load")
    parser.add_argument("--engine-version", default=DEFAULT_VERSION, help="of vLLM")
    parser.add_argument("--log", type=Path, help="of a start with these arguments, to learn from")
    parser.add_argument("--json", action="store_true", help="for programs")
    quote_client.add_arguments(parser)
    return parser


def _flags(rest: Sequence[str]) -> Arguments:
    """vLLM's arguments as they are typed: --name value, --name=value, or --name alone."""
    found: dict[str, object] = {}
    waiting = list(rest)
    while waiting:
        name, equals, value = waiting.pop(0).partition("=")
        if not name.startswith("--"):
            raise Refusal(f"an argument with a name, not {name!r}")
        if not equals and waiting and not waiting[0].startswith("--"):
            value = waiting.pop(0)
        found[name] = value
    return engine.arguments(found)


def question(place: Path, gpu: str, engine_version: str, arguments: Arguments) -> Question:
    folder = place if place.is_dir() else place.parent
    file = place / "config.json" if place.is_dir() else place
    try:
        stated: dict[str, Any] = json.loads(file.read_text())
    except (OSError, ValueError):
        raise Refusal(f"a config.json at {place}") from None
    if not isinstance(stated, dict):
        raise Refusal(f"a config.json at {place}")
    model = reading.read(stated)
    return Question(
        model=model,
        device=devices.find(gpu),
        arguments=arguments,
        engine_version=engine_version,
        backend=model.quantization.scheme,
        stored_bytes=_stored(folder, model, arguments),
        starts=learning.published(),
        config=stated,
    )


def taught(asked: Question, log: Path) -> Question:
    """With what a start of just this printed; its log's version counts where it has one."""
    try:
        lines = log.read_text(errors="replace").splitlines()
    except OSError:
        raise Refusal(f"a log at {log}") from None
    printed = startup_log.read(lines)
    asked = replace(asked, engine_version=printed.engine_version or asked.engine_version)
    return replace(asked, starts=[*asked.starts, learned(asked, printed, str(log))])


def _stored(folder: Path, model: Model, arguments: Arguments) -> int | None:
    """Exact bytes where the folder has the weights, those of the index where it has that."""
    if files := sorted(folder.glob("*.safetensors")):
        sizes: dict[str, int] = {}
        for file in files:
            with file.open("rb") as stream:
                sizes |= safetensors.sizes(stream)
        return weights.loaded(sizes, model, arguments)
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        try:
            total = safetensors.of_index(json.loads(index.read_text()))
        except ValueError:
            raise Refusal(f"a readable {index.name}") from None
        return weights.of_index(total, model, arguments)
    return None


def _devices() -> list[devices.Device]:
    return list(devices.known().values())


def facts(
    asked: Question,
    found: Prediction,
    changes: Sequence[advice.Change],
    least: tuple[devices.Device, int] | None,
) -> dict[str, Any]:
    """Bytes of one device; capacities and their p95 are the least to count on."""
    return {
        "verdict": found.verdict.value,
        "architecture": asked.model.architecture,
        "parameters": found.parameters,
        "device": asked.device.name,
        "devices": found.arguments.ranks * found.arguments.data_parallel_size,
        "engine_version": ".".join(str(part) for part in engine.version(asked.engine_version)),
        "max_model_len": found.arguments.max_model_len,
        "budget_bytes": found.budget_bytes,
        "weights_bytes": _pair(found.weights),
        "activations_bytes": _pair(found.activations),
        "non_torch_bytes": _pair(found.non_torch),
        "graphs_bytes": _pair(found.graphs),
        "kv_bytes": _pair(found.kv_bytes),
        "kv_bytes_per_token": found.token_bytes,
        "kv_bytes_per_request": found.request_bytes,
        "kv_tokens": _pair(found.tokens),
        "concurrency": _pair(found.concurrency),
        "longest_context": _pair(found.longest),
        "smallest": None if least is None else {"device": least[0].name, "devices": least[1]},
        "advice": [
            {"argument": each.argument, "value": each.value, "kv_bytes": round(each.kv_bytes)}
            for each in changes
        ],
    }


def finite(told: Any) -> Any:
    """As JSON can say it: what has no bound, as a model without a cache has none, is null."""
    if isinstance(told, dict):
        return {name: finite(value) for name, value in told.items()}
    if isinstance(told, list):
        return [finite(value) for value in told]
    return None if isinstance(told, float) and not math.isfinite(told) else told


def _pair(estimate: Estimate) -> dict[str, float]:
    return {"p50": round(estimate.p50, 2), "p95": round(estimate.p95, 2)}


ROWS = (
    ("weights", "weights_bytes", True),
    ("activations at their peak", "activations_bytes", True),
    ("beyond torch", "non_torch_bytes", True),
    ("captured graphs", "graphs_bytes", True),
    ("left for the cache", "kv_bytes", True),
    ("tokens in the cache", "kv_tokens", False),
    ("requests of that length at once", "concurrency", False),
    ("longest context that fits", "longest_context", False),
)


def text(told: dict[str, Any]) -> str:
    """A table; sizes in GiB of one device."""
    lines = [
        f"{told['architecture']}, {told['parameters'] / 1e9:.2f} B parameters, on "
        f"{told['devices']} x {told['device']}, vLLM {told['engine_version']}, "
        f"max_model_len {told['max_model_len']:,}: {told['verdict']}",
        "",
        f"{'':34}{'p50':>14}{'p95':>14}",
    ]
    for title, name, bytes_ in ROWS:
        pair = told[name]
        p50, p95 = (_shown(pair[which], bytes_) for which in ("p50", "p95"))
        lines.append(f"{title:34}{p50:>14}{p95:>14}")
    lines.append(f"{'cache for a token, KiB':34}{told['kv_bytes_per_token'] / 1024:>14,.1f}")
    lines.append(f"{'cache for a request':34}{told['kv_bytes_per_request'] / GIB:>10,.2f} GiB")
    if told["smallest"]:
        least = told["smallest"]
        lines.append(f"{'the least that it fits':34}{least['devices']} x {least['device']}")
    lines += [f"it fits with {each['argument']} = {each['value']}" for each in told["advice"]]
    return "\n".join(lines)


def _shown(value: float, bytes_: bool) -> str:
    return f"{value / GIB:,.2f} GiB" if bytes_ else f"{value:,.2f}".removesuffix(".00")
