from datetime import UTC, datetime

import pytest

from compliance import audit
from controlplane.fleet import services
from controlplane.fleet.models import Node, Pool, Region
from tests.fleet.machine import Join, Machine, enrolled


@pytest.fixture
def now() -> datetime:
    return datetime(2026, 3, 4, 12, 0, tzinfo=UTC)


@pytest.fixture
def region(db: None, now: datetime) -> Region:
    return services.create_region(
        code="eu-de-1", country="DE", name="Frankfurt", actor=audit.SYSTEM, now=now
    )


@pytest.fixture
def pool(region: Region, now: datetime) -> Pool:
    return services.create_pool(region=region, name="h200", actor=audit.SYSTEM, now=now)


@pytest.fixture
def join(pool: Pool, now: datetime) -> Join:
    """Enrols a machine and returns its node and itself."""

    def join(name: str = "gpu-1") -> tuple[Node, Machine]:
        return enrolled(pool, name, now=now)

    return join
