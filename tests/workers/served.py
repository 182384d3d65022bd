"""An endpoint that served, and requests as a gateway delivers them."""

from datetime import UTC, datetime, timedelta
from typing import Any

from billing import months, services
from billing.models import Meter, UsageEvent, UsageInbox
from billing.pricing import prices
from compliance import audit
from controlplane.endpoints import version_spec
from controlplane.endpoints.models import Endpoint, Replica, ServingInterval
from controlplane.fleet.models import Pool, Region
from controlplane.tenancy.models import Organization, Project

MONTH = datetime(2026, 3, 1, tzinfo=UTC)
NOON = datetime(2026, 3, 15, 12, 0, tzinfo=UTC)


def serving_prices(now: datetime) -> None:
    """The default prices of serving and of tokens: with one for keep-warm, the seconds of which no
    gateway tells would be counted apart."""
    for meter, kind, amount in prices.DEFAULTS:
        if meter not in (Meter.WARM_SECONDS, Meter.ASLEEP_SECONDS):
            prices.publish(
                actor=audit.SYSTEM,
                meter=meter,
                device_kind=kind,
                amount=amount,
                valid_from=months.start_of(now),
                now=now,
            )


def endpoint(
    name: str = "chat",
    device_count: int = 1,
    device_kind: str = "cpu",
    device_share: int = 1000,
) -> Endpoint:
    """An endpoint of an organization of its own, with the `serving_prices` published."""
    serving_prices(MONTH)
    region, _ = Region.objects.get_or_create(
        code="eu-de-1", defaults={"country": "DE", "ca_key": b"", "created_at": MONTH}
    )
    pool, _ = Pool.objects.get_or_create(region=region, name="cpus", defaults={"created_at": MONTH})
    organization = Organization.objects.create(
        name=name,
        region_code=region.code,
        account=services.open_account(name=name, now=MONTH),
        created_at=MONTH,
    )
    project = Project.objects.create(organization=organization, name=name, created_at=MONTH)
    endpoint = Endpoint.objects.create(
        project=project,
        pool=pool,
        region_code=region.code,
        name=name,
        model="tiny",
        device_kind=device_kind,
        device_count=device_count,
        device_share=device_share,
        created_at=MONTH,
    )
    version_spec.begin(endpoint, now=MONTH)
    return endpoint


def interval(of: Endpoint, start: datetime, served_s: float, **fields: Any) -> ServingInterval:
    replica = Replica.objects.create(
        endpoint=of,
        generation=1,
        state="ready",
        reason="probe_passed",
        state_at=start,
        created_at=start,
    )
    return ServingInterval.objects.create(
        replica=replica, started_at=start, served_s=served_s, **fields
    )


def request(of: Endpoint, number: int = 1, **fields: Any) -> UsageInbox:
    """A finished chat completion: 100 tokens in, 30 of them cached, 50 out."""
    named: dict[str, Any] = {
        "request_id": f"req_{number}",
        "gateway_id": "gw_1",
        "key_id": "key_1",
        "project_id": of.project_id,
        "endpoint_id": of.id,
        "replica_id": "rep_1",
        "operation": "chat.completions",
        "opened_at": NOON,
        "closed_at": NOON + timedelta(seconds=2),
        "status": 200,
        "finish": "complete",
        "counted_by": "engine",
        "input_tokens": 100,
        "cached_tokens": 30,
        "output_tokens": 50,
        **fields,
    }
    return UsageInbox.objects.create(**named)


def totals() -> dict[str, int]:
    """Units of each meter in all usage there is."""
    sums: dict[str, int] = {}
    for meter, quantity in UsageEvent.objects.values_list("meter", "quantity"):
        sums[meter] = sums.get(meter, 0) + quantity
    return sums
