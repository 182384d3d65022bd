"""Workers that cut lines off for who waits at all of them: no more than wait, and all that do."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

from hypothesis import given
from hypothesis import strategies as st

from gateway import table
from gateway.cuts import Cuts
from gateway.table import Table

OTHER = "ep_other"


@contextmanager
def workers(many: int) -> Iterator[tuple[int, list[Cuts]]]:
    fd = table.create(64)
    tables = [Table(fd, f"w{n}") for n in range(many)]
    try:
        yield fd, [Cuts(one, lambda: 1.0) for one in tables]
    finally:
        for one in tables:
            one.close()
        os.close(fd)


rounds = st.lists(st.tuples(st.integers(0, 2), st.integers(0, 6)), min_size=3, max_size=12)


@given(rounds, st.integers(0, 9))
def test_as_many_are_cut_as_wait_whoever_looks(looks: list[tuple[int, int]], waiting: int) -> None:
    """All looks of one fiftieth of a second: worker and how many lines it has."""
    with workers(3) as (_, found):
        cut = [found[worker].take("ep_1", waiting, lines) for worker, lines in looks]
        assert sum(cut) == min(waiting, sum(lines for _, lines in looks))
        assert all(count <= lines for count, (_, lines) in zip(cut, looks, strict=True))
        assert found[0].take(OTHER, 1, 1) == 1  # another endpoint's
        for one in found:
            one.forget()
            assert not one
        assert found[1].take("ep_1", waiting, 9) == waiting


def test_what_a_dead_worker_cut_is_forgotten() -> None:
    with workers(2) as (fd, (dead, alive)):
        assert dead.take("ep_1", 2, 2) == 2
        assert alive.take("ep_1", 2, 2) == 0
        table.release(fd, "w0")
        assert alive.take("ep_1", 2, 2) == 2
