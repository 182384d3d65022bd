"""Replicas by the clock: what cron means, in any time zone, on the nights when clocks change."""

from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controlplane.scaling.schedules import Burst, Schedule, floor, parse

BERLIN = "Europe/Berlin"  # forward on 2026-03-29 at 02:00, back on 2026-10-25 at 03:00


def utc(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def strikes(cron: str, zone: str, after: str, until: str) -> list[str]:
    schedule = Schedule(cron, zone, 60)
    return [f"{at:%m-%d %H:%M}" for at in schedule.starts(utc(after), utc(until))]


def test_it_follows_the_wall_clock_through_the_year() -> None:
    week = ("2026-03-27T00:00", "2026-03-31T00:00")
    assert strikes("0 8 * * mon-fri", BERLIN, *week) == ["03-27 07:00", "03-30 06:00"]
    assert strikes("0 8 * * mon-fri", "UTC", *week) == ["03-27 08:00", "03-30 08:00"]


def test_a_time_that_does_not_exist_is_reckoned_from_before() -> None:
    night = ("2026-03-28T22:00", "2026-03-29T06:00")
    assert strikes("30 2 * * *", BERLIN, *night) == ["03-29 01:30"]  # 03:30 on the wall
    hourly = ["03-28 23:00", "03-29 00:00", "03-29 01:00", "03-29 02:00"]
    assert strikes("0 * * * *", BERLIN, "2026-03-28T22:00", "2026-03-29T02:00") == hourly


def test_a_time_that_exists_twice_is_the_first_one_but_every_hour_is_every_hour() -> None:
    night = ("2026-10-24T23:30", "2026-10-25T02:30")
    assert strikes("30 2 * * *", BERLIN, *night) == ["10-25 00:30"]
    assert strikes("0 * * * *", BERLIN, *night) == ["10-25 00:00", "10-25 01:00", "10-25 02:00"]


@pytest.mark.parametrize(
    ("cron", "days"),
    [
        ("0 0 1 * *", ["06-01"]),
        ("0 0 1,15 jun *", ["06-01", "06-15"]),
        ("0 0 * * 7", ["06-07", "06-14", "06-21", "06-28"]),
        ("0 0 13 * fri", ["06-05", "06-12", "06-13", "06-19", "06-26"]),  # either
        ("0 0 */10 6 *", ["06-01", "06-11", "06-21"]),
        ("0 0 20-22/2 * *", ["06-20", "06-22"]),
    ],
)
def test_fields(cron: str, days: list[str]) -> None:
    found = strikes(cron, "UTC", "2026-05-31T12:00", "2026-06-30T12:00")
    assert [day[:5] for day in found] == days


def test_minutes_and_steps() -> None:
    hour = ("2026-06-01T08:00", "2026-06-01T09:59")
    assert strikes("50/5 8 * * *", "UTC", *hour) == ["06-01 08:50", "06-01 08:55"]
    assert len(strikes("*/15 * * * *", "UTC", *hour)) == 7  # not the one at the very beginning


@pytest.mark.parametrize(
    "cron",
    ["", "* * * *", "60 * * * *", "* 24 * * *", "* * 0 * *", "5-1 * * * *", "*/0 * * * *",
     "x * * * *", "* * * * someday", "-1 * * * *", "1,,2 * * * *", "² * * * *"],
)  # fmt: skip
def test_what_is_no_cron_is_refused(cron: str) -> None:
    with pytest.raises(ValueError):
        parse(cron)


def test_what_is_no_schedule_is_refused() -> None:
    for zone, duration_s, replicas in (
        ("Europe/Atlantis", 60, 1),
        ("../etc/passwd", 60, 1),
        ("UTC", 0, 1),
        ("UTC", 1e9, 1),
        ("UTC", 60, 0),
    ):
        with pytest.raises(ValueError):
            Schedule("0 8 * * *", zone, duration_s, replicas)


def test_it_is_warm_before_and_until_the_end() -> None:
    office = Schedule("0 8 * * *", BERLIN, 3600, replicas=2)
    cases = {"05:59:40": 0, "05:59:43": 2, "06:00:00": 2, "06:59:59": 2, "07:00:00": 0}
    for at, replicas in cases.items():
        assert office.wanted(utc(f"2026-06-01T{at}"), lead_s=18) == replicas


@given(st.dates(date(2026, 3, 20), date(2026, 11, 1)), st.integers(0, 23), st.integers(0, 59))
def test_a_day_has_one_strike_even_when_clocks_change(day: date, hour: int, minute: int) -> None:
    daily = Schedule(f"{minute} {hour} * * *", BERLIN, 60)
    begins = datetime(day.year, day.month, day.day, tzinfo=ZoneInfo(BERLIN))
    ends = (begins + timedelta(days=1)).astimezone(UTC)
    instant = timedelta(microseconds=1)
    assert len(list(daily.starts(begins.astimezone(UTC) - instant, ends - instant))) == 1


def test_twenty_workers_in_three_minutes() -> None:
    declared = utc("2026-06-01T12:00")
    at = declared + timedelta(minutes=3)
    burst = Burst(20, at, at + timedelta(minutes=10), sequences=2)

    def by_clock(seconds: float) -> int:
        return floor([], [burst], declared + timedelta(seconds=seconds), lead_s=18,
                     max_num_seqs=16, target=0.7)  # fmt: skip

    assert [by_clock(s) for s in (0, 161, 162, 180, 779, 780)] == [0, 0, 4, 4, 4, 0]


def test_the_highest_of_all_counts() -> None:
    now = utc("2026-06-01T12:00")
    schedules = [Schedule("0 12 * * *", "UTC", 60, 3), Schedule("0 13 * * *", "UTC", 60, 9)]
    burst = Burst(5, now, now + timedelta(seconds=1))
    assert floor(schedules, [burst], now, lead_s=0, max_num_seqs=1, target=1.0) == 5
    assert floor(schedules, [], now, lead_s=0, max_num_seqs=1, target=1.0) == 3
    assert floor([], [], now, lead_s=0, max_num_seqs=1, target=1.0) == 0
