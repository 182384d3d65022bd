"""What somebody may wish for: checked as a whole before anything is written."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from django.db.models import Q

from compliance import ids
from controlplane.endpoints import elasticity, engine_args, engine_versions, images, shares, sources
from controlplane.endpoints.errors import Invalid
from controlplane.fleet import engines, wire
from controlplane.fleet.models import Device, Pool
from controlplane.tenancy.errors import NotFound
from controlplane.tenancy.models import Organization

MAX_REPLICAS = 100
MAX_LORAS = 4  # adapters at a time, where somebody wants any and did not say how many
MAX_NODES = 16
IDLE_S = range(10, 7 * 86_400 + 1)
TTFT_S = (0.05, 60.0)  # least and most
QUEUE_S = range(3600 + 1)
MAX_QUEUE = 100_000

_NAME = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")
_ADAPTER = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


@dataclass(frozen=True)
class EndpointSpec:
    """The wish, as it comes in. Without a `pool_id` a pool that has the devices is chosen."""

    name: str
    model: str  # as its source calls it, or an absolute path on nodes of the tenant's own pool
    device_kind: str
    device_count: int = 1  # of each node
    node_count: int = 1  # that one replica stands on
    device_share: int = 1000  # thousandths of its one device: endpoints.shares
    revision: str = ""
    pool_id: str = ""
    engine: str = "vllm"
    engine_version: str = ""  # endpoints.engine_versions; empty: as nodes have it
    engine_args: Mapping[str, Any] = field(default_factory=dict)
    adapters: Sequence[Mapping[str, str]] = ()  # LoRA: {"name": …, "path": …, "revision": …}
    capabilities: Sequence[str] | None = None  # of wire.Capability; None: as the recipe promises
    min_replicas: int = 1
    max_replicas: int = 1
    scale_to_zero_timeout_s: int = 3600
    ttft_target_s: float = 1.0
    keep_alive: str = "predictable"  # as elasticity.py has it, and what follows
    schedules: Sequence[Mapping[str, Any]] = ()
    bursts: Sequence[Mapping[str, Any]] = ()
    keep_warm_cap: Mapping[str, Any] | None = None
    queue_limit: int | None = None  # requests that may wait; None: as the gateway is set
    queue_s: int | None = None  # for so long
    source: str = ""  # endpoints.sources; empty: a path is a path, everything else the hub's
    secret: str = ""  # of the project, by name; empty: the default of its kind
    image: Mapping[str, Any] | None = None  # endpoints.images; None: as the node has the engine
    quote_id: str = ""  # what was said of it beforehand; empty: nobody asked


def check(spec: EndpointSpec, organization: Organization) -> tuple[EndpointSpec, Pool]:
    """The wish in its final form, and its pool; Invalid or NotFound say what cannot be."""
    spec = shape(spec)
    pool = _pool(spec, organization)
    reach(spec, pool)
    return replace(spec, pool_id=pool.id), pool


def reach(spec: EndpointSpec, pool: Pool) -> None:
    """Invalid where its model or an adapter is a path that leads to somebody else's files."""
    for one in (spec.model, *(a["path"] for a in spec.adapters)):
        reachable(one, pool)


def shape(spec: EndpointSpec) -> EndpointSpec:
    """All of the wish that no pool decides, in its final form. Raises Invalid."""
    if not _NAME.fullmatch(spec.name):
        raise _invalid(
            "name",
            "a name has 1 to 63 of a-z, 0-9 and inner dashes, such as `support-chat`",
            code="invalid_name",
        )
    engine = _engine(spec.engine)
    can = engine.can
    if not engine.serves(spec.device_kind):
        raise _invalid("device_kind", f"{engine.name} does not run on {_shown(spec.device_kind)}")
    own_image = spec.image is not None
    chosen = engine_versions.choose(engine, spec.engine_version, own_image=own_image)
    spec = replace(spec, engine_version=chosen)
    own_program = not own_image and not engine_versions.image_of(engine.name, chosen)
    devices = spec.device_count * spec.node_count
    shares.check(spec.device_share, engine, spec.engine_args, own_program, devices)
    if own_image or own_program:
        spec = replace(spec, image=images.check(spec.image, engine, spec.node_count))
    elif spec.node_count > 1:
        raise _invalid("node_count", "a replica from an image stands on one node")
    bounds(spec.min_replicas, spec.max_replicas, spec.scale_to_zero_timeout_s)
    ttft(spec.ttft_target_s)
    queue(spec.queue_limit, spec.queue_s)
    elastic = elasticity.checked(
        {name: getattr(spec, name) for name in elasticity.FIELDS}, spec.max_replicas
    )
    if not 1 <= spec.device_count <= 64:
        raise _invalid("device_count", f"expected 1 to 64 devices, not {spec.device_count}")
    if not 1 <= spec.node_count <= MAX_NODES:
        raise _invalid("node_count", f"expected 1 to {MAX_NODES} nodes, not {spec.node_count}")
    brought = spec.engine == images.CUSTOM and not spec.model
    spec = replace(spec, source=images.no_source(spec) if brought else sources.check(spec))
    adapters = [adapter(one) for one in spec.adapters]
    if len({a["name"] for a in adapters}) < len(adapters):
        raise _invalid("adapters", "each adapter needs a name of its own")
    arguments = engine_args.validate(
        spec.engine_args, spec.device_count, spec.device_kind, spec.node_count, engine=spec.engine
    )
    if adapters and not can.adapters:
        raise _invalid("adapters", f"{spec.engine} takes no adapters while it runs")
    if spec.node_count > 1 and not can.gangs:
        raise _invalid("node_count", f"{spec.engine} stands on one node")
    if adapters or "max_lora_rank" in arguments:
        arguments.setdefault("max_loras", max(MAX_LORAS, len(adapters)))
    if spec.node_count > 1 and "max_loras" in arguments:
        raise _invalid("adapters", "a replica that stands on several nodes takes no adapters")
    room(arguments, len(adapters))
    capabilities = _capabilities(spec.capabilities, can)
    spec = replace(spec, engine_args=arguments, adapters=adapters, capabilities=capabilities)
    return replace(spec, **elastic)


def bounds(min_replicas: int, max_replicas: int, scale_to_zero_timeout_s: int) -> None:
    """Invalid unless 0 <= min <= max, max at least 1, and the idle time-out is a sensible one."""
    if not 1 <= max_replicas <= MAX_REPLICAS:
        raise _invalid("max_replicas", f"expected 1 to {MAX_REPLICAS}, not {max_replicas}")
    if not 0 <= min_replicas <= max_replicas:
        message = f"expected 0 to max_replicas ({max_replicas}), not {min_replicas}"
        raise _invalid("min_replicas", message)
    if scale_to_zero_timeout_s not in IDLE_S:
        most = IDLE_S.stop - 1
        message = f"expected {IDLE_S.start} to {most} seconds, not {scale_to_zero_timeout_s}"
        raise _invalid("scale_to_zero_timeout_s", message)


def ttft(target_s: float) -> None:
    """Invalid unless it is a time in which a first token can come."""
    least, most = TTFT_S
    if not least <= target_s <= most:
        raise _invalid("ttft_target_s", f"expected {least:g} to {most:g} seconds, not {target_s:g}")


def queue(limit: int | None, seconds: int | None) -> None:
    """Invalid unless both are sensible; 0 is: then nobody waits."""
    if limit is not None and not 0 <= limit <= MAX_QUEUE:
        raise _invalid("queue_limit", f"expected 0 to {MAX_QUEUE} requests, not {limit}")
    if seconds is not None and seconds not in QUEUE_S:
        raise _invalid("queue_s", f"expected 0 to {QUEUE_S.stop - 1} seconds, not {seconds}")


def _engine(name: str) -> engines.Engine:
    if name not in engines.ENGINES:
        there = ", ".join(f"`{one}`" for one in engines.ENGINES)
        raise _invalid("engine", f"{_shown(name)} is no engine here; there is {there}")
    return engines.ENGINES[name]


def _capabilities(given: Sequence[str] | None, can: engines.Can) -> list[str] | None:
    known = [one.value for one in wire.Capability if one in can.proofs]
    if given is None:
        return None
    if not set(given) <= set(known):
        raise _invalid("capabilities", f"expected some of {', '.join(known) or 'none'}")
    return [one for one in known if one in given]


def room(arguments: Mapping[str, Any], count: int) -> None:
    """Invalid if an engine with these arguments has no room for so many adapters."""
    most = arguments.get("max_loras", 0)
    if count > most:
        message = (
            f"{count} adapters are asked for, the endpoint has room for {most}: "
            "unload one, or set a higher engine arg `max_loras`"
        )
        raise _invalid("adapters", message, code="too_many_adapters")


def reachable(path: str, pool: Pool) -> None:
    """Invalid where a path on the nodes might lead to somebody else's files."""
    if path.startswith("/") and pool.organization_id is None:
        message = "a path on the nodes can be used in a pool of your own only; this one is shared"
        raise _invalid("model", message, code="path_on_shared_pool")


def adapter(given: Mapping[str, str]) -> dict[str, str]:
    """One adapter as it is kept (wire.Adapter); one without an id is a new load, and gets one.
    Invalid if it cannot be."""
    known = {"name", "path"} <= given.keys() <= {"id", "name", "path", "revision"}
    if not known or not all(isinstance(value, str) for value in given.values()):
        raise _invalid("adapters", "each adapter has a `name`, a `path` and perhaps a `revision`")
    name, path, revision = given["name"], given["path"], given.get("revision", "")
    if not _ADAPTER.fullmatch(name):
        raise _invalid("adapters", f"{_shown(name)} cannot name an adapter")
    sources.place("adapters", path, revision)
    return {
        "id": given.get("id") or ids.new("adp"),
        "name": name,
        "path": path,
        "revision": revision,
    }


def _pool(spec: EndpointSpec, organization: Organization) -> Pool:
    """The pool asked for, or the first that has the devices: the organization's own before others.

    Whoever else's pool it is does not exist.
    """
    mine = Pool.objects.filter(Q(organization=organization) | Q(organization=None))
    if spec.pool_id:
        pool = mine.filter(id=spec.pool_id).first()
        if pool is None:
            raise NotFound("pool", field="pool")
        if pool.region_id != organization.region_code:
            message = (
                f"pool {pool.name} is in {pool.region_id}, "
                f"the organization's region is {organization.region_code}"
            )
            raise _invalid("pool", message, code="region_mismatch")
        pools = [pool]
    else:
        here = mine.filter(region_id=organization.region_code)
        pools = sorted(here, key=lambda p: (p.organization_id is None, p.id))
    offers = {pool.id: _offer(pool) for pool in pools}
    fitting = [pool for pool in pools if _nodes_for(spec, offers[pool.id]) >= spec.node_count]
    if fitting:
        return shares.first(spec.device_share, fitting)
    raise _too_much(spec, list(offers.values()))


def _offer(pool: Pool) -> dict[str, list[int]]:
    """Device kind to how many of it each node of the pool has."""
    devices = Device.objects.filter(node__pool=pool, node__removed_at=None, healthy=True)
    per_node: dict[tuple[str, str], int] = {}
    for node_id, kind in devices.values_list("node_id", "kind"):
        per_node[node_id, kind] = per_node.get((node_id, kind), 0) + 1
    counts: dict[str, list[int]] = {}
    for (_, kind), count in per_node.items():
        counts.setdefault(kind, []).append(count)
    return counts


def _nodes_for(spec: EndpointSpec, offer: Mapping[str, Sequence[int]]) -> int:
    """How many nodes have what the wish asks of each."""
    return sum(count >= spec.device_count for count in offer.get(spec.device_kind, ()))


def _too_much(spec: EndpointSpec, offers: list[dict[str, list[int]]]) -> Invalid:
    most: dict[str, int] = {}
    for offer in offers:
        for kind, counts in offer.items():
            most[kind] = max(most.get(kind, 0), *counts)
    if spec.device_kind not in most:
        known = ", ".join(sorted(most)) or "none"
        message = f"no node has devices of kind {_shown(spec.device_kind)}; there are: {known}"
        return _invalid("device_kind", message, code="device_kind_unknown")
    if spec.device_count <= most[spec.device_kind]:
        there = max(_nodes_for(spec, offer) for offer in offers)
        message = (
            f"{spec.node_count} nodes with {spec.device_count} devices of kind {spec.device_kind} "
            f"each are asked for, the largest pool has {there}"
        )
        return _invalid("node_count", message, code="node_count_too_large")
    message = (
        f"{spec.device_count} devices of kind {spec.device_kind} on one node are asked for, "
        f"the largest node has {most[spec.device_kind]}"
    )
    return _invalid("device_count", message, code="device_count_too_large")


def _shown(value: str) -> str:
    return "".join(mark if mark.isprintable() else "?" for mark in value[:80]) or "nothing"


def _invalid(field: str, message: str, *, code: str = "") -> Invalid:
    return Invalid(message, code=code or f"invalid_{field}", field=field)
