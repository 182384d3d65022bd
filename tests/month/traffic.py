"""What agents of a company do in a month: bursts on working days, silence, and warm waiting."""

import random
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta

from billing.meters import usage
from billing.models import Basis, Meter, UsageInbox
from tests.month.customers import KIND, Company

MINUTE = timedelta(minutes=1)
REGION = "eu-de-1"
DEVICES = (1, 1, 2, 8)
CALLS_A_MINUTE = 0.6  # few: each is three events, and attribution owes nothing
WARM_S = 900


@dataclass(frozen=True)
class Session:
    """One endpoint is busy from `start` for `busy_s`, waits warm for `warm_s`, then sleeps."""

    company: Company
    endpoint_id: str
    project_id: str
    devices: int
    start: datetime
    busy_s: int
    warm_s: int
    asleep_s: int


def sessions(companies: list[Company], start: datetime, end: datetime, seed: int) -> list[Session]:
    luck = random.Random(seed)
    found: list[Session] = []
    for company in companies:
        for endpoint in company.endpoints:
            devices = luck.choice(DEVICES)
            day = start
            while day < end:
                found += _of_day(company, endpoint.id, endpoint.project_id, devices, day, luck)
                day += timedelta(days=1)
    return found


def _of_day(
    company: Company,
    endpoint_id: str,
    project_id: str,
    devices: int,
    day: datetime,
    luck: random.Random,
) -> Iterator[Session]:
    at = day + timedelta(hours=6, seconds=luck.randrange(3 * 3600))
    for _ in range(luck.choice((0, 1, 1, 2)) if day.weekday() < 5 else luck.choice((0, 0, 0, 1))):
        busy_s = luck.randrange(240, 3000)
        asleep_s = luck.choice((0, 0, 1800))
        yield Session(company, endpoint_id, project_id, devices, at, busy_s, WARM_S, asleep_s)
        at += timedelta(seconds=busy_s + WARM_S + asleep_s + luck.randrange(600, 4 * 3600))


def seconds(one: Session, number: int) -> Iterator[usage.Event]:
    """The minutes of a session, as metering cuts them."""
    at, stretch = one.start, 0
    for meter, length in (
        (Meter.DEVICE_SECONDS, one.busy_s),
        (Meter.WARM_SECONDS, one.warm_s),
        (Meter.ASLEEP_SECONDS, one.asleep_s),
    ):
        left = length
        while left > 0:
            minute = at.replace(second=0, microsecond=0)
            spent = min(left, int((minute + MINUTE - at).total_seconds()))
            stretch += 1
            yield usage.Event(
                id=f"rep_{number}:siv_{number}:{int(minute.timestamp())}:{stretch}",
                at=minute,
                account_id=one.company.account.id,
                project_id=one.project_id,
                endpoint_id=one.endpoint_id,
                replica_id=f"rep_{number}",
                region=REGION,
                device_kind=KIND,
                meter=meter.value,
                basis=Basis.CHARGE.value,
                quantity=spent * one.devices,
            )
            at += timedelta(seconds=spent)
            left -= spent


def requests(one: Session, number: int, luck: random.Random) -> Iterator[UsageInbox]:
    """What gateways delivered of a session."""
    for nth in range(int(one.busy_s / 60 * CALLS_A_MINUTE)):
        opened = one.start + timedelta(seconds=luck.randrange(one.busy_s))
        prompt = luck.randrange(200, 30_000)
        yield UsageInbox(
            request_id=f"req_{number}_{nth}",
            gateway_id="gw_1",
            key_id=f"key_{one.company.organization.id[4:20]}",
            project_id=one.project_id,
            endpoint_id=one.endpoint_id,
            replica_id=f"rep_{number}",
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
