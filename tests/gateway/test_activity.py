"""Activity rows: at once for somebody who waits, few otherwise, and one when it is over."""

import contextlib
from collections.abc import Iterator
from functools import partial

import psycopg
import pytest

from controlplane.endpoints.models import Activity as Row
from gateway.activity import Activity
from gateway.config import Config
from gateway.demand import NOTHING, Demand
from gateway.store import Store
from tests.gateway.house import Beat, House, Road, eventually, role_url


@contextlib.contextmanager
def telling(beat: Beat, config: Config) -> Iterator[Activity]:
    async def make() -> tuple[Activity, Store]:
        store = Store(config.database_url)
        activity = Activity(store, config.gateway_id, config.activity_every_s)
        await activity.start()
        return activity, store

    async def stop() -> None:
        await activity.stop()
        await store.stop()

    activity, store = beat.run(make())
    try:
        yield activity
    finally:
        beat.run(stop())


def rows(endpoint_id: str = "ep_1") -> list[tuple[int, int]]:
    found = Row.objects.filter(endpoint_id=endpoint_id).order_by("id")
    return list(found.values_list("in_flight", "waiting"))


def test_who_waits_wakes_the_endpoint_at_once(house: House, beat: Beat, config: Config) -> None:
    with (
        telling(beat, config) as activity,
        psycopg.connect(role_url("stoa_app"), autocommit=True) as listener,
    ):
        listener.execute("LISTEN stoa_wake")
        beat.call(activity.waiting, "ep_1", 1)
        [notice] = listener.notifies(timeout=1.0, stop_after=1)
        assert notice.payload == "ep_1"
        assert rows()[0] == (0, 1)
        # A herd is one wake; it is repeated only at the usual pace.
        for _ in range(50):
            beat.call(activity.waiting, "ep_1", 1)
        assert len(rows()) <= 2
        beat.call(activity.waiting, "ep_1", -51)
        eventually(lambda: rows()[-1] == (0, 0))
        assert Row.objects.first().gateway_id == "gw-test"  # type: ignore[union-attr]


def test_waiting_is_told_at_once_in_the_middle_of_traffic(
    house: House, beat: Beat, config: Config
) -> None:
    with (
        telling(beat, config) as activity,
        psycopg.connect(role_url("stoa_app"), autocommit=True) as listener,
    ):
        activity._every_s = 60
        listener.execute("LISTEN stoa_wake")
        beat.call(activity.began, "ep_1")
        eventually(rows)
        for _ in range(2):
            beat.call(activity.waiting, "ep_1", 1)
            assert list(listener.notifies(timeout=1.0, stop_after=1))
            beat.call(activity.waiting, "ep_1", -1)


def test_traffic_gives_few_rows_and_a_last_one(house: House, beat: Beat, config: Config) -> None:
    with telling(beat, config) as activity:
        for _ in range(200):
            beat.call(activity.began, "ep_1")
            beat.call(activity.ended, "ep_1")
        eventually(lambda: rows() and rows()[-1] == (0, 0))
        assert len(rows()) <= 4
        eventually(lambda: not activity._states)
        before = len(rows())
        beat.call(activity.began, "ep_1")
        eventually(lambda: rows()[before:])  # after a quiet time at once
        assert rows()[before:][0] == (1, 0)
        beat.call(activity.ended, "ep_1")


def test_short_requests_between_two_rows_show(house: House, beat: Beat, config: Config) -> None:
    with telling(beat, config) as activity:
        beat.call(activity.began, "ep_1")
        eventually(rows)
        beat.call(activity.ended, "ep_1")
        eventually(lambda: rows()[-1] == (0, 0))
        before = len(rows())

        def herd() -> None:
            for _ in range(3):
                activity.began("ep_1")
            for _ in range(3):
                activity.ended("ep_1")

        beat.call(herd)
        eventually(lambda: rows()[before:] == [(3, 0), (0, 0)])


def test_lines_of_batches_are_no_people(house: House, beat: Beat, config: Config) -> None:
    people = Row.objects.filter(people=True)
    with telling(beat, config) as activity:
        beat.call(partial(activity.began, line=True), "ep_1")
        eventually(rows)
        assert not people.exists()

        def passes_by() -> None:
            activity.began("ep_1")
            activity.ended("ep_1")

        beat.call(passes_by)
        eventually(people.exists)
        beat.call(partial(activity.ended, line=True), "ep_1")
        eventually(lambda: rows()[-1] == (0, 0))
        assert people.get().in_flight == 2  # that row alone


def test_who_leaves_before_it_is_told_is_forgotten(
    house: House, beat: Beat, config: Config
) -> None:
    with telling(beat, config) as activity:

        def glance() -> None:
            activity.waiting("ep_1", 1)
            activity.waiting("ep_1", -1)

        beat.call(glance)
        eventually(lambda: not activity._states)
        assert rows() == []
        beat.call(activity.began, "ep_1")
        eventually(rows)
        beat.call(activity.ended, "ep_1")


def test_a_long_request_is_told_again_and_again(house: House, beat: Beat, config: Config) -> None:
    with telling(beat, config) as activity:
        beat.call(activity.began, "ep_1")
        eventually(lambda: rows() == [(1, 0)] * 3)
        beat.call(activity.ended, "ep_1")
        eventually(lambda: rows()[-1] == (0, 0))


def test_an_outage_is_made_good(
    house: House, beat: Beat, config: Config, road: Road, caplog: pytest.LogCaptureFixture
) -> None:
    with telling(beat, config) as activity:
        road.cut()
        beat.call(activity.waiting, "ep_1", 1)
        beat.call(activity.began, "ep_2")
        eventually(lambda: "activity rows wait" in caplog.text)
        beat.call(activity.ended, "ep_2")
        road.mend()
        eventually(lambda: rows() and rows()[-1] == (0, 1))
        eventually(lambda: rows("ep_2") and rows("ep_2")[-1] == (0, 0))
        beat.call(activity.waiting, "ep_1", -1)


def test_stopping_tells_the_last_state(house: House, beat: Beat, config: Config) -> None:
    with telling(beat, config) as activity:
        activity._every_s = 60
        beat.call(activity.began, "ep_1")
        eventually(rows)
        beat.call(activity.ended, "ep_1")
        assert rows() == [(1, 0)]
    assert rows() == [(1, 0), (1, 0)]  # there was traffic until a moment ago


class Steady:
    """Demands that the test sets."""

    def __init__(self) -> None:
        self.now = NOTHING

    def of(self, endpoint_id: str) -> Demand:
        return self.now


def test_more_than_is_ready_is_told_twice_a_second(
    house: House, beat: Beat, config: Config
) -> None:
    with (
        telling(beat, config) as activity,
        psycopg.connect(role_url("stoa_app"), autocommit=True) as listener,
    ):
        listener.execute("LISTEN stoa_wake")
        activity._every_s = 60
        demands = activity.demands = Steady()
        beat.call(activity.began, "ep_1")
        eventually(rows)
        demands.now = Demand(300, 5000, 9, pressed=True, prefill_tps=800.0)
        beat.call(activity.look)
        assert len(list(listener.notifies(timeout=5.0, stop_after=2))) == 2
        row = Row.objects.latest("id")
        assert (row.uncached_tokens, row.kv_tokens, row.running) == (300, 5000, 9)
        assert (row.pressed, row.prefill_tps, row.idle_s) == (True, 800.0, None)
        demands.now = NOTHING
        beat.call(activity.ended, "ep_1")
        eventually(lambda: not Row.objects.latest("id").pressed)
        assert Row.objects.latest("id").idle_s is not None
