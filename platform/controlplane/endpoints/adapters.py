"""LoRA adapters of an endpoint that runs: load, unload, and how each is.

They are part of the wish and no part of a version: the agents compare it with what their engines
have, so an adapter survives a restart, a move to another node and a sleep. Only an endpoint whose
engines were started without room for adapters (engine arg `max_loras`) gets new replicas, once.

Callers ask `endpoints.access` first. Repeating a verb changes nothing and records nothing.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from django.db import transaction
from django.db.models import F

from compliance import audit
from controlplane.endpoints import logs, notify, versions, wishes
from controlplane.endpoints import spec as specs
from controlplane.endpoints.models import Endpoint, Replica
from controlplane.endpoints.states import LIVE, State
from controlplane.fleet import wire
from controlplane.fleet.models import Node
from controlplane.fleet.wire import AdapterReason, AdapterState
from controlplane.tenancy.errors import NotFound

MAX_RANK = 16  # where the engine arg `max_lora_rank` is not given: vLLM's own
# What somebody can do about it.
ADVICE: dict[str, str] = {
    AdapterReason.NOT_FOUND: "Check the adapter's path or hub id, and that each node has it.",
    AdapterReason.FETCH_FAILED: "Check that the nodes reach and may read its files.",
    AdapterReason.INVALID: "Give a LoRA adapter in PEFT's format: adapter_config.json and "
    "adapter_model.safetensors.",
    AdapterReason.RANK_TOO_HIGH: "Set the engine arg `max_lora_rank` to the adapter's rank.",
    AdapterReason.REFUSED: "The adapter does not suit the model: read the engine's words.",
    AdapterReason.NO_ROOM: "Set the engine arg `max_loras`: the replica is replaced then.",
}


@dataclass(frozen=True)
class OnReplica:
    """How an adapter is on one replica that lives. `state` is a wire.AdapterState."""

    replica: str
    state: str
    reason: str
    detail: str


@dataclass(frozen=True)
class Adapter:
    """`status`: loaded (wherever the endpoint serves), loading, failed (somewhere), waiting (no
    replica serves). `reason` and `message` are those of a failure."""

    name: str
    path: str
    revision: str
    status: str
    reason: str
    message: str
    replicas: tuple[OnReplica, ...]


def load(
    *,
    actor: audit.Actor,
    endpoint: Endpoint,
    name: str,
    path: str,
    now: datetime,
    revision: str = "",
) -> Endpoint:
    """Have every replica load it, under a name that is then the endpoint's `endpoint:name`.

    Another source under a name that is loaded takes its place. Raises Invalid, NotFound.
    """
    wanted = specs.adapter({"name": name, "path": path, "revision": revision})
    with transaction.atomic():
        nodes = _nodes(endpoint)
        endpoint = wishes.locked(endpoint)
        before = _of(endpoint, name)
        if before is not None and _source(before) == _source(wanted):
            return endpoint
        specs.reachable(path, endpoint.pool)
        others = [one for one in endpoint.adapters if one["name"] != name]
        if "max_loras" not in endpoint.engine_args:
            endpoint = _with_room(endpoint, actor, now)
        specs.room(endpoint.engine_args, len(others) + 1)
        endpoint.adapters = [*others, wanted]
        endpoint.save(update_fields=["adapters"])
        _wish(endpoint, nodes, actor, "adapter.load", name, before, wanted, now)
    return endpoint


def unload(*, actor: audit.Actor, endpoint: Endpoint, name: str, now: datetime) -> Endpoint:
    """Have every replica let it go; requests for it find nothing from now on. Raises NotFound."""
    with transaction.atomic():
        nodes = _nodes(endpoint)
        endpoint = wishes.locked(endpoint)
        before = _of(endpoint, name)
        if before is None:
            raise NotFound("adapter")
        endpoint.adapters = [one for one in endpoint.adapters if one["name"] != name]
        endpoint.save(update_fields=["adapters"])
        _wish(endpoint, nodes, actor, "adapter.unload", name, before, None, now)
    return endpoint


def states(endpoint: Endpoint, replicas: Sequence[Replica]) -> list[Adapter]:
    """How each adapter of the wish is, in the order in which they were loaded. Asks no database."""
    live = [one for one in replicas if one.state in LIVE and one.state != State.DRAINING]
    # Of those that are being replaced nobody expects it.
    live = [one for one in live if one.generation == endpoint.generation] or live
    return [_state(one, live) for one in endpoint.adapters]


def note(row: Replica, said: Sequence[wire.AdapterReport]) -> None:
    """What a node says of a replica's adapters. `row` has `adapters` as the database has them."""
    heard = {
        one.id[:40]: {
            "state": str(one.state),
            "reason": str(one.reason or ""),
            "detail": logs.clean(one.detail)[:500],
        }
        for one in said[:256]
    }
    if heard != row.adapters:
        row.adapters = heard
        Replica.objects.filter(id=row.id).update(adapters=heard)
        notify.changed(row.endpoint_id)


def _nodes(endpoint: Endpoint) -> list[str]:
    """Those that have a replica of it, locked before the endpoint: a node's report comes to the
    endpoint from there."""
    held = Replica.objects.filter(endpoint_id=endpoint.id, released_at=None, node__isnull=False)
    nodes = Node.objects.select_for_update(no_key=True).order_by("id")
    return list(nodes.filter(id__in=held.values("node_id")).values_list("id", flat=True))


def _of(endpoint: Endpoint, name: str) -> dict[str, str] | None:
    return next((one for one in endpoint.adapters if one["name"] == name), None)


def _source(one: Mapping[str, str]) -> tuple[str, str]:
    return one["path"], one["revision"]


def _with_room(endpoint: Endpoint, actor: audit.Actor, now: datetime) -> Endpoint:
    """A new version: engines without room are replaced by some that have it."""
    arguments = endpoint.engine_args | {"max_loras": specs.MAX_LORAS}
    versions.change(
        actor=actor,
        endpoint=endpoint,
        changes={"engine_args": arguments},
        note="room for adapters",
        now=now,
    )
    return wishes.locked(endpoint)


def _wish(
    endpoint: Endpoint,
    nodes: Sequence[str],
    actor: audit.Actor,
    action: str,
    name: str,
    before: Mapping[str, str] | None,
    after: Mapping[str, str] | None,
    now: datetime,
) -> None:
    Node.objects.filter(id__in=nodes).update(desired_version=F("desired_version") + 1)
    # A name, and a path, may hold a person's.
    personal: dict[str, Any] = {"name": name}
    change = []
    for field in ("path", "revision"):
        old, new = (before or {}).get(field), (after or {}).get(field)
        if any(str(value).startswith("/") for value in (old, new)):
            personal[field] = new
        elif old != new:
            change.append(audit.Change(field, old, new))
    wishes.wished(endpoint, actor, action, now, change=change, personal=personal)
    notify.changed(*nodes)


def _state(one: Mapping[str, str], live: Sequence[Replica]) -> Adapter:
    each = tuple(_on(one["id"], replica) for replica in live)
    serving = {replica.id for replica in live if replica.state == State.READY}
    failed = next((on for on in each if on.state == AdapterState.FAILED), None)
    if failed is not None:
        status = "failed"
    elif not serving:
        status = "waiting"
    elif all(on.state == AdapterState.LOADED for on in each if on.replica in serving):
        status = "loaded"
    else:
        status = "loading"
    return Adapter(
        name=one["name"],
        path=one["path"],
        revision=one["revision"],
        status=status,
        reason=failed.reason if failed else "",
        message=f"{failed.detail}. {ADVICE.get(failed.reason, '')}".strip(". ") if failed else "",
        replicas=each,
    )


def _on(id: str, replica: Replica) -> OnReplica:
    said = replica.adapters.get(id, {})
    return OnReplica(
        replica=replica.id,
        state=said.get("state", AdapterState.LOADING),
        reason=said.get("reason", ""),
        detail=said.get("detail", ""),
    )
