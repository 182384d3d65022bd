"""Endpoints and their versions, as they were, stopped; and the pools that they will run in."""

from collections.abc import Mapping
from typing import Any

from compliance import audit
from controlplane.endpoints import aliases, spec, version_spec, wishes
from controlplane.endpoints.models import Endpoint, EndpointVersion
from controlplane.endpoints.spec import EndpointSpec
from controlplane.fleet import services
from controlplane.fleet.models import Pool, Region
from controlplane.fleet.wire import SourceKind
from controlplane.switching.importers import Taking
from controlplane.tenancy.errors import Invalid
from controlplane.tenancy.models import Project

# Beside those of a version.
_FIELDS = (
    *("min_replicas", "max_replicas", "scale_to_zero_timeout_s", "ttft_target_s", "keep_alive"),
    *("schedules", "bursts", "keep_warm_cap", "queue_limit", "queue_s"),
)


def pools(taking: Taking) -> None:
    """Which pool stands for each: as the operator says, or one of its own without nodes."""
    for row in taking.bundle.rows("pools"):
        wanted = taking.pools.get(row["id"]) or taking.pools.get(row["name"])
        pool = _given(taking, wanted) if wanted else _own(taking, row)
        taking.made("pools", row["id"], pool.id)


def _given(taking: Taking, wanted: str) -> Pool:
    found = Pool.objects.filter(id=wanted, region_id=taking.region, organization=None).first()
    if found is None:
        message = f"{wanted!r:.60} is no shared pool of {taking.region}"
        raise Invalid(message, code="unknown_pool", field="pool")
    return found


def _own(taking: Taking, row: Mapping[str, Any]) -> Pool:
    region = Region.objects.get(code=taking.region)
    name = row["name"]
    if Pool.objects.filter(region=region, name=name).exists():
        name = f"{name[:60]}-{taking.organization.id[-8:]}"
    pool = services.create_pool(
        region=region,
        name=name,
        actor=taking.actor,
        now=taking.now,
        organization=taking.organization,
    )
    words = f"pool {name} was made without nodes: enrol some, then start the endpoints"
    taking.note("pools", "nodes_to_be_enrolled", words, row)
    return pool


def endpoints(taking: Taking) -> None:
    for row, project in taking.owned("endpoints"):
        if row["deleted_at"]:
            taking.note("endpoints", "ended", "had been deleted before", row)
            continue
        with taking.passing_over("endpoints", row):
            made = _endpoint(taking, row, project)
            taking.made("endpoints", row["id"], made.id)
            if row["secret"] or (row["image"] or {}).get("registry_secret"):
                taking.note("endpoints", "secret_to_be_entered", "needs a project secret", row)
            if row["shared_at"] and not row["unshared_at"]:
                words = "was published to the whole region: that is the new operator's to do"
                taking.note("endpoints", "not_shared", words, row)


def _endpoint(taking: Taking, row: Mapping[str, Any], project: Project) -> Endpoint:
    """As `endpoints.services.create` makes it, but stopped, and judged without any node."""
    fields = taking.mapped({name: row[name] for name in (*version_spec.FIELDS, *_FIELDS)})
    given = {**fields, "adapters": taking.mapped(row["adapters"])}
    if given["source"] in (SourceKind.HUB, SourceKind.PATH):
        given["source"] = ""  # the model's name says which of the two
    pool = Pool.objects.get(id=taking.ids[row["pool_id"]])
    checked = spec.shape(EndpointSpec(name=row["name"], pool_id=pool.id, **given))
    spec.reach(checked, pool)
    names = (*version_spec.FIELDS, *_FIELDS)
    kept = {name: getattr(checked, name) for name in names}
    aliases.refuse_shadow(project, row["name"])
    endpoint = Endpoint.objects.create(
        project=project,
        pool=pool,
        region_code=taking.region,
        name=row["name"],
        adapters=list(checked.adapters),
        pinned=taking.mapped(row["pinned"]),
        generation=row["generation"],
        created_at=taking.now,
        stopped_at=taking.now,
        **kept,
    )
    change = [audit.Change("switched_from", None, row["id"])]
    personal = {"name": row["name"]}
    wishes.wished(
        endpoint, taking.actor, "endpoint.create", taking.now, change=change, personal=personal
    )
    return endpoint


def versions(taking: Taking) -> None:
    """All of them, so that an endpoint can go back as before; which one serves is its own word."""
    for row in taking.bundle.rows("endpoint_versions"):
        endpoint = taking.ids.get(row["endpoint_id"])
        if endpoint is None:
            continue
        made = EndpointVersion.objects.create(
            endpoint_id=endpoint,
            number=row["number"],
            spec=taking.mapped(row["spec"]),
            note=row["note"],
            created_at=taking.now,
            created_by=taking.mapped(row["created_by"]),
        )
        taking.made("endpoint_versions", row["id"], made.id)
