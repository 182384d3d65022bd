"""What agents of a company do in a month: bursts on working days, silence, and warm waiting."""

import random
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from billing.models import UsageInbox
from controlplane.endpoints.models import Endpoint
from tests.month.customers import Company

CALLS_A_MINUTE = 0.6  # few: each is three events, and attribution owes nothing
WARM_S = 900
LOOKS = timedelta(seconds=10)  # how often a gateway's worker tells that it has requests
# Sessions of a working day and of another one.
_WORKING, _FREE = (0, 0, 0, 0, 1), (0, 0, 0, 0, 0, 0, 0, 0, 0, 1)


class Trouble(StrEnum):
    """What befalls a session."""

    NONE = ""
    GAP = "gap"  # records of three minutes never arrive
    OVERLAP = "overlap"  # a minute is told twice, under two numbers
    REPLAY = "replay"  # a batch arrives twice
    JUMP = "clock_jump"  # the node's wall clock is an hour ahead for a while
    MOVE = "moved"  # its node is drained while it serves


# One session in so many has a trouble, one kind after the other.
EVERY = 7


@dataclass(frozen=True)
class Session:
    """One endpoint is busy from `start` for `busy_s`, waits warm for `warm_s`, then sleeps."""

    company: Company
    endpoint: Endpoint
    start: datetime
    busy_s: int
    warm_s: int
    asleep_s: int
    trouble: Trouble


def sessions(companies: list[Company], start: datetime, end: datetime, seed: int) -> list[Session]:
    """In the order of their starts' days."""
    luck = random.Random(seed)
    found: list[Session] = []
    day = start
    while day < end:
        for company in companies:
            for endpoint in company.endpoints:
                found += _of_day(company, endpoint, day, len(found), luck)
        day += timedelta(days=1)
    return found


def _of_day(
    company: Company, endpoint: Endpoint, day: datetime, before: int, luck: random.Random
) -> Iterator[Session]:
    at = day + timedelta(hours=6, seconds=luck.randrange(3 * 3600))
    for nth in range(luck.choice(_WORKING if day.weekday() < 5 else _FREE)):
        busy_s = luck.randrange(600, 3600)
        asleep_s = luck.choice((0, 0, 1800))
        yield Session(company, endpoint, at, busy_s, WARM_S, asleep_s, _trouble(before + nth))
        at += timedelta(seconds=busy_s + WARM_S + asleep_s + luck.randrange(600, 4 * 3600))


def _trouble(number: int) -> Trouble:
    kinds = [one for one in Trouble if one is not Trouble.NONE]
    turn, rest = divmod(number, EVERY)
    return kinds[turn % len(kinds)] if rest == EVERY - 1 else Trouble.NONE


def activity(one: Session) -> Iterator[tuple[str, str, int, datetime]]:
    """Endpoint, gateway, requests in flight and moment: what a gateway tells while it is busy."""
    at, end = one.start + timedelta(seconds=1), one.start + timedelta(seconds=one.busy_s)
    while at < end:
        yield one.endpoint.id, "gw_1", 2, at
        at += LOOKS
    yield one.endpoint.id, "gw_1", 1, end


def requests(
    one: Session, replica_id: str, number: int, luck: random.Random
) -> Iterator[UsageInbox]:
    """What gateways delivered of a session."""
    for nth in range(int(one.busy_s / 60 * CALLS_A_MINUTE)):
        opened = one.start + timedelta(seconds=luck.randrange(one.busy_s))
        prompt = luck.randrange(200, 30_000)
        yield UsageInbox(
            request_id=f"req_{number}_{nth}",
            gateway_id="gw_1",
            key_id=f"key_{one.company.organization.id[4:20]}",
            project_id=one.endpoint.project_id,
            endpoint_id=one.endpoint.id,
            replica_id=replica_id,
            operation="chat.completions",
            opened_at=opened,
            closed_at=opened + timedelta(seconds=luck.uniform(0.5, 60)),
            status=200,
            finish="complete",
            counted_by="engine",
            input_tokens=prompt,
            cached_tokens=int(prompt * luck.random() * 0.9),
            output_tokens=luck.randrange(20, 1500),
            nano_eur=0,
            run=f"run_{luck.randrange(10**9):020}",
            agent=f"agt_{luck.randrange(5):020}",
        )
