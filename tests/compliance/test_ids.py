"""Ids sort by birth, also those of one millisecond."""

from compliance import ids


def test_ids_sort_by_birth_and_are_valid() -> None:
    made = [ids.new("ep") for _ in range(5_000)]
    assert made == sorted(made)
    assert len(set(made)) == len(made)
    assert all(ids.valid(one, "ep") for one in (made[0], made[-1]))
