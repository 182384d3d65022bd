"""When a secret was used last: told in batches as the gateway's role, never lost to an outage."""

import contextlib
import logging
import time
from collections.abc import Iterator
from datetime import UTC, datetime

import pytest

from controlplane.tenancy.models import ApiKey, ApiKeySecret, SecretUse
from gateway.config import Config
from gateway.keeper import Keeper
from gateway.store import Store
from gateway.uses import Uses
from tests.gateway.house import Beat, House, Road, eventually
from tests.gateway.rig import Rig

SECRET = "sk-stoa-12345678-secret"


@contextlib.contextmanager
def telling(beat: Beat, config: Config) -> Iterator[Uses]:
    async def make() -> tuple[Uses, Store]:
        store = Store(config.database_url)
        uses = Uses(store, config.gateway_id, 0.1)
        await uses.start()
        return uses, store

    async def stop() -> None:
        await uses.stop()
        await store.stop()

    uses, store = beat.run(make())
    try:
        yield uses
    finally:
        beat.run(stop())


def last_use(key: ApiKey) -> datetime | None:
    return key.secrets.get().last_used_at


def test_a_use_reaches_its_secret_and_only_moves_on(
    house: House, beat: Beat, config: Config
) -> None:
    used, other = house.key(SECRET), house.key("another")
    secret_id = used.secrets.get().id
    with telling(beat, config) as uses:
        beat.call(uses.noted.__setitem__, secret_id, 1_800.5)
        moment = datetime.fromtimestamp(1_800.5, UTC)
        eventually(lambda: last_use(used) == moment)
        beat.call(uses.noted.__setitem__, secret_id, 900.0)  # told late by another gateway
        beat.call(uses.noted.__setitem__, "sec_gone", 1_900.0)
        eventually(lambda: not uses.noted)
        # A clock that runs ahead does not make a use of tomorrow.
        beat.call(uses.noted.__setitem__, other.secrets.get().id, time.time() + 86_400)
        assert eventually(lambda: last_use(other)).timestamp() <= time.time()  # type: ignore[union-attr]
        assert last_use(used) == moment
    assert not SecretUse.objects.exists()


def test_a_use_is_no_news_for_the_directory(house: House, beat: Beat, config: Config) -> None:
    secret_id = house.key(SECRET).secrets.get().id

    async def begin() -> Keeper:
        keeper = Keeper(config)
        await keeper.start()
        return keeper

    keeper = beat.run(begin())
    try:
        generation = keeper.current.generation
        with telling(beat, config) as uses:
            beat.call(uses.noted.__setitem__, secret_id, 1_800.0)
            eventually(lambda: ApiKeySecret.objects.get().last_used_at)
        house.endpoint()  # a change that is news
        eventually(lambda: keeper.current.generation > generation)
        assert keeper.current.generation == generation + 1
    finally:
        beat.run(keeper.stop())


def test_uses_outlive_an_outage(
    house: House, beat: Beat, config: Config, road: Road, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "gateway")
    key = house.key(SECRET)
    secret_id = key.secrets.get().id
    with telling(beat, config) as uses:
        road.cut()
        beat.call(uses.noted.__setitem__, secret_id, 1_800.0)
        eventually(lambda: "uses of keys wait" in caplog.text)
        eventually(lambda: uses.noted)
        beat.call(uses.noted.__setitem__, secret_id, 1_900.0)  # the later one is what counts
        road.mend()
        eventually(lambda: last_use(key) == datetime.fromtimestamp(1_900, UTC))


def test_what_was_used_at_the_end_is_told_at_the_end(
    house: House, beat: Beat, config: Config
) -> None:
    key = house.key(SECRET)
    secret_id = key.secrets.get().id
    with telling(beat, config) as uses:
        beat.call(uses.noted.__setitem__, secret_id, 1_800.0)
    assert last_use(key) == datetime.fromtimestamp(1_800, UTC)


def test_a_request_notes_the_secret_that_it_came_with(rig: Rig) -> None:
    rig.key(secret_id="sec_1")
    before = time.time()
    rig.get("/v1/models", key=None)
    assert rig.uses.noted == {}
    assert rig.get("/v1/models").status == 200
    assert before <= rig.uses.noted["sec_1"] <= time.time()
