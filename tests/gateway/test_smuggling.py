"""One request is one request: the corpus, whole and cut at every place."""

import json

import pytest

from tests.gateway import edge, rfc9112
from tests.gateway.rig import Rig
from tests.gateway.smuggling import BODY, CORPUS, SECRET, Case


def _check(tiny: Rig, case: Case, pieces: list[bytes]) -> None:
    engine = tiny.engines[0]
    engine.seen.clear()
    statuses, closed = edge.ask(tiny.port, pieces, len(case.statuses), ends=case.ends)
    assert statuses == case.statuses
    assert closed == case.ends
    seen = tuple(json.loads(seen.raw)["messages"][0]["content"] for seen in engine.seen)
    assert seen == tuple(json.loads(body)["messages"][0]["content"] for body in case.seen)


@pytest.mark.parametrize("case", CORPUS, ids=repr)
def test_whole(tiny: Rig, case: Case) -> None:
    _check(tiny, case, [case.raw])


@pytest.mark.parametrize("case", CORPUS, ids=repr)
def test_in_pieces(tiny: Rig, case: Case) -> None:
    """Where a piece ends says nothing: the request is what it is."""
    for size in (1, 7, 64):
        _check(tiny, case, [case.raw[at : at + size] for at in range(0, len(case.raw), size)])


@pytest.mark.parametrize("case", CORPUS, ids=repr)
def test_the_second_reading_agrees(case: Case) -> None:
    """Else the fuzzing's yardstick (edge.most) would be bent."""
    read = [request.body for request in rfc9112.requests(case.raw) if request.method == b"POST"]
    served = [body for body in read if body in (BODY, SECRET)]
    assert served[: len(case.seen)] == list(case.seen)


def test_names_are_told_apart() -> None:
    assert len({case.name for case in CORPUS}) == len(CORPUS)
