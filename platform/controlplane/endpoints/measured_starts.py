"""What engines' starts showed: kept once for each replica, used for the next prediction of anybody.

An engine's log is taken at its word only where its program is ours, and within bounds. An image of
a tenant's own teaches nothing: it may print what it likes.
"""

import logging
import re
from collections import Counter
from datetime import datetime
from typing import Any

import msgspec
from django.db.models import Q

from controlplane.endpoints import questions
from controlplane.endpoints.model_facts import Wish
from controlplane.endpoints.models import MeasuredStart, Replica
from controlplane.fleet import wire
from controlplane.placement.devices import GIB
from controlplane.placement.memory import engine
from controlplane.placement.memory.learning import Start, published
from controlplane.placement.memory.predict import Question, learned
from controlplane.placement.memory.startup_log import Printed
from controlplane.placement.mix import WHOLE
from controlplane.placement.refusals import Refusal
from controlplane.tenancy.models import Organization

log = logging.getLogger(__name__)

# What a start can leave beyond the formulas, and what weights can be over theirs.
LEAST_RESIDUAL_BYTES = -1 * GIB
MOST_RESIDUAL_BYTES = 6 * GIB
RATIOS = (0.6, 1.7)
NEWEST = 500  # rows that a prediction looks at: of each of its devices, and of all others
EACH = 5  # of one organization that are alike: nobody is the median alone by starting often
_ARCHITECTURE = re.compile(r"[A-Za-z0-9_]{1,100}")


def note(replica_id: str, said: wire.ReplicaReport, now: datetime) -> bool:
    """Keep what this start teaches; whether that was anything. Idempotent: a replica starts once,
    and what comes later says the same."""
    if said.engine is None or said.start_tier is wire.StartTier.WAKE:
        return False
    if MeasuredStart.objects.filter(replica_id=replica_id).exists():
        return False
    rows = Replica.objects.select_related(
        "version", "endpoint__pool", "endpoint__project__organization"
    )
    replica = rows.get(id=replica_id)
    try:
        with questions.sense():
            start, asked = _learned(replica, said, said.engine, now)
    except Refusal as refusal:
        log.info("%s: its start teaches nothing: it takes %s", replica_id, refusal.fact)
        return False
    _, new = MeasuredStart.objects.get_or_create(
        replica=replica,
        defaults={
            "organization": replica.endpoint.project.organization,
            "shared": replica.endpoint.pool.organization_id is None,
            "engine_version": start.engine_version,
            "architecture": start.architecture,
            "device": start.device,
            "backend": start.backend,
            "ranks": start.ranks,
            "arguments": _changed(asked.arguments),
            "printed": _figures(said.engine),
            "residual_bytes": start.residual_bytes,
            "weights_ratio": start.weights_ratio,
            "at": now,
        },
    )
    return new


def starts(organization: Organization, *devices: str) -> list[Start]:
    """What a prediction for this organization may learn from on these devices; the published
    starts among them."""
    mine = MeasuredStart.objects.filter(Q(shared=True) | Q(organization=organization))
    rows = [
        *mine.filter(device__in=devices).order_by("-at")[: NEWEST * len(devices)],
        *mine.exclude(device__in=devices).order_by("-at")[:NEWEST],
    ]
    alike: Counter[tuple[Any, ...]] = Counter()
    found = []
    for row in rows:
        kind = (row.organization_id, row.engine_version, row.architecture, row.device, row.backend)
        alike[kind] += 1
        if alike[kind] <= EACH:
            found.append(_start(row))
    return [*found, *published()]


def _start(row: MeasuredStart) -> Start:
    return Start(
        engine_version=row.engine_version,
        architecture=row.architecture,
        device=row.device,
        backend=row.backend,
        ranks=row.ranks,
        residual_bytes=row.residual_bytes,
        weights_ratio=row.weights_ratio,
        source="measured here",
    )


def _learned(
    replica: Replica, said: wire.ReplicaReport, engine_said: wire.EngineReport, now: datetime
) -> tuple[Start, Question]:
    """Raises Refusal with why nothing is learned."""
    spec = replica.version
    if spec.engine != "vllm" or spec.image is not None:
        raise Refusal("an engine that we bring")
    if spec.device_kind == questions.CPU or replica.node_count > 1:
        raise Refusal("GPUs of one node")
    if spec.device_share < WHOLE:
        raise Refusal("a device of its own: what neighbours take and free blurs the figures")
    asked = questions.arguments(spec.model, spec.spec["engine_args"])
    if asked.kv_cache_memory_bytes is not None or "kv_cache_memory_bytes" in said.start_flags:
        raise Refusal("a cache that the engine measured itself")
    version = _version(engine_said.version, questions.version(spec.engine_version))
    wish = Wish(spec.source, spec.model, spec.revision)
    found = questions.known(replica.endpoint.project, wish, now)
    claim = replica.claims.select_related("device").first()
    if claim is None:
        raise Refusal("its devices")
    device = questions.device(claim.device.kind, claim.device.memory_bytes)
    question = questions.question(found, device, asked, version, [])
    start = learned(question, _printed(engine_said))
    _check(start)
    return start, question


def _version(printed: str, expected: str) -> str:
    """As it was printed, where that is the one that we started."""
    if engine.version(printed) != engine.version(expected):
        raise Refusal(f"a log of version {expected}, not {printed[:32]!r}")
    return expected


def _printed(said: wire.EngineReport) -> Printed:
    """Raises Refusal for sizes that cannot be."""
    sizes = (said.weights_bytes, said.kv_cache_bytes)
    if any(size is None or not 0 < size < 1 << 50 for size in sizes):
        raise Refusal('"Model loading took" and "Available KV cache memory" in the log')
    assert said.weights_bytes is not None and said.kv_cache_bytes is not None
    return Printed(weights_gib=said.weights_bytes / GIB, kv_gib=said.kv_cache_bytes / GIB)


def _figures(said: wire.EngineReport) -> dict[str, int | float]:
    return {
        name: value
        for name, value in msgspec.to_builtins(said).items()
        if isinstance(value, int | float) and 0 <= value < 2**62
    }


def _check(start: Start) -> None:
    if not LEAST_RESIDUAL_BYTES <= start.residual_bytes <= MOST_RESIDUAL_BYTES:
        raise Refusal(f"figures that add up, not {start.residual_bytes / GIB:.1f} GiB beyond them")
    if not RATIOS[0] <= start.weights_ratio <= RATIOS[1]:
        raise Refusal(f"weights near the formula's, not {start.weights_ratio} times them")
    if not _ARCHITECTURE.fullmatch(start.architecture):
        raise Refusal("an architecture's name")


def _changed(arguments: engine.Arguments) -> dict[str, Any]:
    """Those that are not vLLM's default."""
    plain = engine.Arguments()
    return {name: value for name, value in vars(arguments).items() if value != getattr(plain, name)}
