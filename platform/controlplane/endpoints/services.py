"""The verbs. Each writes the wish and its audit event in one transaction, and hints after it.

Callers ask `endpoints.access` first. Repeating a verb changes nothing and records nothing.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import Any

from django.db import IntegrityError, transaction

from compliance import audit
from controlplane.endpoints import (
    aliases,
    deciding,
    elasticity,
    images,
    preflight,
    quote_keeping,
    signals,
    sources,
    version_spec,
)
from controlplane.endpoints import spec as specs
from controlplane.endpoints.errors import Invalid, NameTaken
from controlplane.endpoints.models import Endpoint, Replica
from controlplane.endpoints.spec import EndpointSpec
from controlplane.endpoints.states import LIVE, State
from controlplane.endpoints.wishes import locked as _locked
from controlplane.endpoints.wishes import wished as _wished
from controlplane.tenancy.models import Project

__all__ = [
    "EndpointSpec",
    "create",
    "declare_burst",
    "delete",
    "heard",
    "request_wake",
    "start",
    "stop",
    "update",
]

BOUNDS = ("min_replicas", "max_replicas", "scale_to_zero_timeout_s", "ttft_target_s")
QUEUE = ("queue_limit", "queue_s")

# Waiting requests repeat themselves; one wake is enough for all of them.
_WAKE_EVERY = timedelta(seconds=5)


def create(*, actor: audit.Actor, project: Project, spec: EndpointSpec, now: datetime) -> Endpoint:
    """Wish for an endpoint. Raises Invalid, NotFound (a pool or quote that is not theirs),
    NameTaken, DoesNotFit.

    With min_replicas 0 it sleeps until the first request.
    """
    organization = project.organization
    spec, pool = specs.check(spec, organization)
    sources.check_access(project, spec.source, spec.model, spec.secret)
    images.check_access(project, spec.image)
    quote = quote_keeping.find(project, spec.quote_id)
    outlook = preflight.check(spec, pool, project, now)
    endpoint = Endpoint(
        quote=quote,
        project=project,
        pool=pool,
        region_code=organization.region_code,
        name=spec.name,
        source=spec.source,
        secret=spec.secret,
        model=spec.model,
        revision=spec.revision,
        engine=spec.engine,
        engine_version=spec.engine_version,
        engine_args=spec.engine_args,
        image=spec.image,
        adapters=list(spec.adapters),
        capabilities=spec.capabilities,
        device_kind=spec.device_kind,
        device_count=spec.device_count,
        node_count=spec.node_count,
        device_share=spec.device_share,
        min_replicas=spec.min_replicas,
        max_replicas=spec.max_replicas,
        scale_to_zero_timeout_s=spec.scale_to_zero_timeout_s,
        ttft_target_s=spec.ttft_target_s,
        keep_alive=spec.keep_alive,
        schedules=list(spec.schedules),
        bursts=list(spec.bursts),
        keep_warm_cap=spec.keep_warm_cap,
        queue_limit=spec.queue_limit,
        queue_s=spec.queue_s,
        created_at=now,
    )
    with transaction.atomic():
        aliases.refuse_shadow(project, spec.name)
        with _name_taken(spec.name), transaction.atomic():
            endpoint.save(force_insert=True)
        version_spec.begin(endpoint, by=actor.id, now=now, outlook=outlook.kept)
        _wished(endpoint, actor, "endpoint.create", now, **_told(spec))
    return endpoint


def _told(spec: EndpointSpec) -> dict[str, Any]:
    """What the event of a new endpoint holds of its wish."""
    public = sources.is_public_name(spec.source)
    facts: dict[str, Any] = {
        "pool_id": spec.pool_id,
        "source": spec.source,
        "revision": spec.revision,
        "engine": spec.engine,
        "engine_version": spec.engine_version,
        "engine_args": sorted(spec.engine_args),
        "image": images.told(spec.image),
        "device_kind": spec.device_kind,
        "device_count": spec.device_count,
        "node_count": spec.node_count,
        "device_share": spec.device_share,
        "min_replicas": spec.min_replicas,
        "max_replicas": spec.max_replicas,
        "scale_to_zero_timeout_s": spec.scale_to_zero_timeout_s,
        "ttft_target_s": spec.ttft_target_s,
        "capabilities": spec.capabilities,
        **{name: getattr(spec, name) for name in elasticity.FIELDS},
        "queue_limit": spec.queue_limit,
        "queue_s": spec.queue_s,
        "quote_id": spec.quote_id,
    } | ({"model": spec.model} if public else {})
    return {
        "change": [audit.Change(name, None, value) for name, value in facts.items()],
        "personal": {"name": spec.name} | ({} if public else {"model": spec.model}),
    }


def update(*, actor: audit.Actor, endpoint: Endpoint, now: datetime, **asked: Any) -> Endpoint:
    """Change what is given of BOUNDS, QUEUE and `elasticity.FIELDS`; None takes a bound of QUEUE,
    or the cap, away.

    Raises Invalid, NotFound, and TypeError for anything else.
    """
    if unknown := asked.keys() - {*BOUNDS, *QUEUE, *elasticity.FIELDS}:
        raise TypeError(f"no such bound: {', '.join(sorted(unknown))}")
    if missing := [name for name in BOUNDS if asked.get(name, 0) is None]:
        raise Invalid(f"{missing[0]} is a number", field=missing[0])
    with transaction.atomic():
        return _changed(_locked(endpoint), actor, "endpoint.scale", now, asked)


def declare_burst(
    *,
    actor: audit.Actor,
    endpoint: Endpoint,
    now: datetime,
    workers: int,
    in_s: float,
    for_s: float = 3600.0,
    sequences: int = 1,
) -> Endpoint:
    """ "20 workers in 3 minutes": replicas are ready for them then, for `for_s` seconds.

    `sequences`: requests that a worker has in flight. Raises Invalid, NotFound.
    """
    with transaction.atomic():
        endpoint = _locked(endpoint)
        bursts = elasticity.with_burst(
            endpoint.bursts, workers=workers, in_s=in_s, for_s=for_s, sequences=sequences, now=now
        )
        return _changed(endpoint, actor, "endpoint.burst", now, {"bursts": bursts})


def _changed(
    endpoint: Endpoint, actor: audit.Actor, action: str, now: datetime, asked: dict[str, Any]
) -> Endpoint:
    """In the transaction that locked it."""
    most = asked.get("max_replicas", endpoint.max_replicas)
    elastic = {name: asked[name] for name in elasticity.FIELDS if name in asked}
    change = [
        audit.Change(name, getattr(endpoint, name), value)
        for name, value in (asked | elasticity.checked(elastic, most)).items()
        if value != getattr(endpoint, name)
    ]
    if not change:
        return endpoint
    for one in change:
        setattr(endpoint, one.path, one.after)
    specs.bounds(endpoint.min_replicas, endpoint.max_replicas, endpoint.scale_to_zero_timeout_s)
    specs.ttft(endpoint.ttft_target_s)
    specs.queue(endpoint.queue_limit, endpoint.queue_s)
    endpoint.save(update_fields=[one.path for one in change])
    _wished(endpoint, actor, action, now, change=change)
    return endpoint


def stop(*, actor: audit.Actor, endpoint: Endpoint, now: datetime) -> Endpoint:
    """Drain every replica and start none. Raises NotFound."""
    with transaction.atomic():
        endpoint = _locked(endpoint)
        if endpoint.stopped_at is None:
            endpoint.stopped_at, endpoint.wake_requested_at = now, None
            endpoint.save(update_fields=["stopped_at", "wake_requested_at"])
            _wished(endpoint, actor, "endpoint.stop", now)
    return endpoint


def start(*, actor: audit.Actor, endpoint: Endpoint, now: datetime) -> Endpoint:
    """Serve again, and at once: it ends the back-off, and wakes one that sleeps.

    Raises NotFound.
    """
    with transaction.atomic():
        endpoint = _locked(endpoint)
        waits = endpoint.retry_at is not None and now < endpoint.retry_at
        sleeps = endpoint.min_replicas == 0 and not _serves(endpoint.id)
        if endpoint.stopped_at is not None or waits or sleeps:
            endpoint.stopped_at = endpoint.retry_at = None
            endpoint.failures, endpoint.wake_requested_at = 0, now
            fields = ["stopped_at", "retry_at", "failures", "wake_requested_at"]
            endpoint.save(update_fields=fields)
            _wished(endpoint, actor, "endpoint.start", now)
    return endpoint


def share(*, actor: audit.Actor, endpoint: Endpoint, now: datetime) -> Endpoint:
    """Publish it to every organization of its region, by the token; the operator's to do.

    Raises NotFound, NameTaken where the region has a shared endpoint of that name.
    """
    with transaction.atomic():
        endpoint = _locked(endpoint)
        if not endpoint.shared:
            endpoint.shared_at, endpoint.unshared_at = now, None
            with _name_taken(endpoint.name), transaction.atomic():
                endpoint.save(update_fields=["shared_at", "unshared_at"])
            _wished(endpoint, actor, "endpoint.share", now)
    return endpoint


def unshare(*, actor: audit.Actor, endpoint: Endpoint, now: datetime) -> Endpoint:
    """Keep it to its own project again; what others asked for is answered. Raises NotFound."""
    with transaction.atomic():
        endpoint = _locked(endpoint)
        if endpoint.shared:
            endpoint.unshared_at = now
            endpoint.save(update_fields=["unshared_at"])
            _wished(endpoint, actor, "endpoint.unshare", now)
    return endpoint


def delete(*, actor: audit.Actor, endpoint: Endpoint, now: datetime) -> None:
    """Stop it for good; its name is free at once, its record and its usage stay.

    Raises NotFound where it is deleted already.
    """
    with transaction.atomic():
        endpoint = _locked(endpoint)
        endpoint.deleted_at, endpoint.stopped_at = now, endpoint.stopped_at or now
        endpoint.save(update_fields=["deleted_at", "stopped_at"])
        _wished(endpoint, actor, "endpoint.delete", now)


def request_wake(endpoint_id: str, now: datetime) -> bool:
    """Somebody waits at an endpoint that sleeps; True if this call woke it.

    For one that serves or starts already, is stopped, or does not exist, nothing happens.
    """
    with transaction.atomic():
        asleep = Endpoint.objects.select_for_update(no_key=True, of=("self",)).filter(
            id=endpoint_id, stopped_at=None, deleted_at=None, min_replicas=0
        )
        endpoint = asleep.select_related("project").first()
        if endpoint is None or _serves(endpoint_id):
            return False
        last = endpoint.wake_requested_at
        if last is not None and now - last < _WAKE_EVERY:
            return False
        endpoint.wake_requested_at = now
        endpoint.save(update_fields=["wake_requested_at"])
        _wished(endpoint, audit.SYSTEM, "endpoint.wake", now)
    return True


def heard(endpoint_id: str, now: datetime) -> None:
    """A gateway has requests that wait for the endpoint: wake it, or look at how it scales."""
    if deciding.heard(endpoint_id, now) and not request_wake(endpoint_id, now):
        signals.hint(endpoint_id)


def _serves(endpoint_id: str) -> bool:
    """Whether a replica is there or on its way."""
    serving = LIVE - {State.DRAINING, State.ASLEEP}
    return Replica.objects.filter(endpoint_id=endpoint_id, state__in=serving).exists()


@contextmanager
def _name_taken(name: str) -> Iterator[None]:
    try:
        yield
    except IntegrityError as error:
        if "endpoint_shared_name" in str(error):
            message = f"the region has a shared endpoint {name} already"
        elif "endpoint_name" in str(error):
            message = f"the project has an endpoint {name} already"
        else:
            raise
        raise NameTaken(message, field="name") from None
