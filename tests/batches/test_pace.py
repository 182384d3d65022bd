"""How many lines at once, and what an answer means."""

import json

import pytest

from workers.batching.pace import FIRST_S, MOST_S, Pace
from workers.batching.verdicts import Fate, judge


def send(pace: Pace, now: float) -> int:
    sent = pace.room(now)
    for _ in range(sent):
        pace.began()
    return sent


def test_it_rises_to_what_goes_through_and_no_higher() -> None:
    pace = Pace(16)
    sent = []
    for _ in range(5):
        sent.append(send(pace, 0.0))
        for _ in range(sent[-1]):
            pace.answered()
    assert sent == [2, 4, 8, 16, 16]


def test_a_round_of_refusals_halves_once_and_waits_longer_each_time() -> None:
    pace, now = Pace(16), 0.0
    for _ in range(3):
        for _ in range(send(pace, now)):
            pace.answered()
    waits = []
    for expected in (16, 8, 4, 2, 1, 1, 1):
        assert send(pace, now) == expected
        for _ in range(expected):
            pace.refused(now + 0.1, now, None)
        assert pace.room(now + 0.1) == 0
        waits.append(pace.wait_s(now + 0.1))
        now += 0.1 + waits[-1] + 0.001
    assert waits[0] == pytest.approx(FIRST_S)
    assert waits[:5] == sorted(waits[:5])
    assert waits[5:] == [pytest.approx(MOST_S)] * 2
    assert send(pace, now) == 1
    pace.answered()
    assert pace.room(now) == 2  # one more for a round that went through


def test_who_is_told_how_long_to_wait_waits_so_long() -> None:
    pace = Pace(4)
    send(pace, 0.0)
    pace.refused(1.0, 0.0, 30.0)
    assert pace.wait_s(1.0) == 30.0


def body(code: str | None) -> bytes:
    return json.dumps({"error": {"message": "m", "code": code}}).encode()


@pytest.mark.parametrize(
    ("status", "code", "fate"),
    [
        (200, None, Fate.DONE),
        (400, "context_length_exceeded", Fate.FAILED),
        (404, "model_not_found", Fate.FAILED),
        (403, "insufficient_permissions", Fate.FAILED),
        (401, "invalid_api_key", Fate.AGAIN),
        (429, "rate_limit_exceeded", Fate.AGAIN),
        (429, "budget_exceeded", Fate.AGAIN),
        (503, "no_spare_capacity", Fate.AGAIN),
        (503, "preempted", Fate.AGAIN),
        (503, "endpoint_starting", Fate.AGAIN),
        (502, "engine_gone", Fate.FAULT),
        (500, None, Fate.FAULT),
    ],
)
def test_verdicts(status: int, code: str | None, fate: Fate) -> None:
    assert judge(status, body(code)).fate is fate


def test_what_is_no_json_is_judged_by_its_status() -> None:
    assert judge(502, b"<html>").fate is Fate.FAULT
    assert judge(413, b"").fate is Fate.FAILED
    assert judge(429, body("rate_limit_exceeded"), "7").wait_s == 7.0
