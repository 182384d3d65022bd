"""When prompts queue in the engines for too long: by the endpoint's own target."""

import asyncio

import pytest
from msgspec import structs

from gateway import table
from gateway.demand import Demand, Demands
from gateway.loads import Loads
from gateway.pools import Pools
from gateway.table import Table
from tests.gateway.test_router import RATE, endpoint, taught


async def seen(replicas: int, seconds: float, target_s: float) -> Demand:
    """With prompts queued at the first replica that it prefills in so many seconds."""
    now = asyncio.get_running_loop().time()
    names = [f"r{number}" for number in range(replicas)]
    pools = Pools()
    pool = pools.of(structs.replace(endpoint(*names, id="ep_1"), ttft_target_s=target_s))
    taught(pool, now - 120.0 * replicas)
    size = int(RATE * seconds)
    pool.lanes[0].dispatched(size, size, now)
    loads = Loads(Table(table.create(1 << 10), "loads"), clock=lambda: now)
    return Demands(loads, pools, lambda _: (), lambda _: (0, 0)).of("ep_1")


@pytest.mark.parametrize(
    ("replicas", "seconds", "target_s", "pressed"),
    [
        (1, 1.5, 1.0, True),
        (1, 1.5, 2.0, False),
        (1, 0.2, 0.1, True),
        (2, 1.5, 1.0, False),  # two of them are through with it in time
        (2, 1.5, 0.5, True),
    ],
)
def test_the_target_is_the_endpoints_own(
    replicas: int, seconds: float, target_s: float, pressed: bool
) -> None:
    found = asyncio.run(seen(replicas, seconds, target_s))
    assert found.pressed is pressed
    assert found.uncached_tokens > 0


def test_an_endpoint_that_nobody_asked_for_is_not_pressed() -> None:
    async def look() -> Demand:
        loads = Loads(Table(table.create(1 << 10), "loads"), clock=lambda: 0.0)
        return Demands(loads, Pools(), lambda _: (), lambda _: (0, 0)).of("ep_none")

    assert asyncio.run(look()) == Demand()
