"""Who gives up devices, in which order."""

from hypothesis import given
from hypothesis import strategies as st

from controlplane.placement.preempt import Holder, Room, Tier, make_room


def holder(id: str, node: str, tier: Tier, devices: int = 1, since: float = 0.0) -> Holder:
    return Holder(id, node, tier, devices, since)


def gone(room: Room | None) -> list[str]:
    assert room is not None
    return [one.replica_id for one in room.victims]


def test_sleepers_then_batches_then_what_is_above_the_minimum() -> None:
    surplus = holder("surplus", "a", Tier.ABOVE_MINIMUM)
    batch, sleeper = holder("batch", "b", Tier.BATCH), holder("sleeper", "c", Tier.ASLEEP)
    free = {"a": 0, "b": 0, "c": 0}
    assert gone(make_room(1, free, {}, [surplus, batch, sleeper])) == ["sleeper"]
    assert gone(make_room(1, free, {}, [surplus, batch])) == ["batch"]
    assert gone(make_room(1, free, {}, [surplus])) == ["surplus"]
    assert make_room(1, free, {}, []) is None


def test_a_higher_tier_goes_only_where_the_lower_ones_are_too_few() -> None:
    here = [holder("s1", "a", Tier.ASLEEP), holder("x1", "a", Tier.ABOVE_MINIMUM)]
    there = [holder("s2", "b", Tier.ASLEEP), holder("s3", "b", Tier.ASLEEP, since=1.0)]
    assert gone(make_room(2, {"a": 0, "b": 0}, {}, [*here, *there])) == ["s2", "s3"]
    assert gone(make_room(2, {"a": 0}, {}, here)) == ["s1", "x1"]


def test_the_longest_asleep_and_the_newest_that_serves() -> None:
    asleep = [holder(f"s{at}", "a", Tier.ASLEEP, since=float(at)) for at in (2, 1, 3)]
    assert gone(make_room(1, {"a": 0}, {}, asleep)) == ["s1"]
    serving = [holder(f"x{at}", "a", Tier.ABOVE_MINIMUM, since=float(at)) for at in (2, 1, 3)]
    assert gone(make_room(1, {"a": 0}, {}, serving)) == ["x3"]


def test_nobody_goes_for_what_comes_free_by_itself() -> None:
    sleeper = holder("s", "a", Tier.ASLEEP, 4)
    assert make_room(4, {"a": 2, "b": 1}, {"b": 3}, [sleeper]) == Room("b")


def test_nobody_goes_in_vain() -> None:
    """The large one alone is enough, so the small one before it stays."""
    small, large = holder("s", "a", Tier.ASLEEP, 1, 0.0), holder("l", "a", Tier.ASLEEP, 4, 1.0)
    assert gone(make_room(4, {"a": 0}, {}, [small, large])) == ["l"]


holders = st.lists(
    st.builds(
        holder,
        st.uuids().map(str),
        st.sampled_from("abc"),
        st.sampled_from(Tier),
        st.integers(1, 4),
        st.floats(0, 9),
    ),
    max_size=8,
)


@given(holders, st.dictionaries(st.sampled_from("abc"), st.integers(0, 3)), st.integers(1, 8))
def test_as_many_as_are_needed_and_none_more(
    there: list[Holder], free: dict[str, int], count: int
) -> None:
    room = make_room(count, free, {}, there)
    most = {
        id: left + sum(one.devices for one in there if one.node_id == id)
        for id, left in free.items()
    }
    if room is None:
        assert all(one < count for one in most.values())
        return
    freed = free[room.node_id] + sum(one.devices for one in room.victims)
    assert freed >= count
    assert all(one.node_id == room.node_id for one in room.victims)
    assert all(freed - one.devices < count for one in room.victims)
    if room.victims:
        worst = max(one.tier for one in room.victims)
        lower = [one for one in there if one.tier < worst]
        for id, left in free.items():
            assert left + sum(one.devices for one in lower if one.node_id == id) < count
