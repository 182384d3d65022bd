"""Predicted speed beside what others measured."""

import statistics

import pytest

from controlplane.placement.speed.factors import Class
from tests.benchmarks.speed import measured
from tests.benchmarks.speed.measured import Compared


@pytest.fixture(scope="module")
def compared() -> list[Compared]:
    found = measured.all_rows()
    print(measured.text(found))
    return found


def held_out(compared: list[Compared], kind: Class) -> list[float]:
    return [abs(each.off) for each in compared if each.kind is kind and not each.fitted]


def test_tokens_of_dense_models_are_predicted_as_well_as_by_anyone(
    compared: list[Compared],
) -> None:
    """The best published tools without data of the very model are off by 20 % in the median."""
    off = held_out(compared, Class.DENSE)
    assert len(off) >= 12 and statistics.median(off) <= 0.15


def test_tokens_of_sparse_models_too(compared: list[Compared]) -> None:
    off = held_out(compared, Class.SPARSE)
    assert len(off) >= 8 and statistics.median(off) <= 0.2 and max(off) <= 0.5


def test_the_p95_covers_what_was_measured(compared: list[Compared]) -> None:
    """Of rows that no factor saw."""
    judged = [each for each in compared if not each.fitted]
    assert sum(each.covered for each in judged) >= 0.9 * len(judged)


def test_first_tokens_of_dense_models_are_of_the_right_size(compared: list[Compared]) -> None:
    off = [
        abs(each.ttft_off)
        for each in compared
        if each.kind is Class.DENSE and not each.fitted and "rate" in each.row
    ]
    assert len(off) >= 10 and statistics.median(off) <= 0.35
