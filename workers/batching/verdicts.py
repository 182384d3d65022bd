"""What a gateway's answer means for a line: done, failed, or to be sent again. Pure."""

from dataclasses import dataclass
from enum import Enum

import msgspec

FAULTS_MAX = 5  # answers of this kind, and the line has failed
_LATER_S = 60.0  # what a budget lacks it lacks for a while


class Fate(Enum):
    DONE = "done"
    FAILED = "failed"
    AGAIN = "again"
    FAULT = "fault"  # again, but not for ever: it may be the line that breaks its engine


@dataclass(frozen=True)
class Verdict:
    """`code` is the error's, empty where there is none."""

    fate: Fate
    code: str = ""
    wait_s: float | None = None


class _Error(msgspec.Struct):
    code: str | None = None


class _Refusal(msgspec.Struct):
    error: _Error | None = None


# Not the line's doing: it comes again for as long as its batch has time.
_PATIENT = frozenset(
    {
        *("no_spare_capacity", "preempted", "endpoint_starting", "endpoint_stopped"),
        *("engine_overloaded", "metering_unavailable", "counters_full", "budget_unavailable"),
        *("directory_stale", "gateway_draining", "rate_limit_exceeded", "run_paused"),
        *("budget_exceeded", "invalid_api_key"),
    }
)


def judge(status: int, body: bytes, retry_after: str = "") -> Verdict:
    """`invalid_api_key` is no verdict on a line: it was our pass, and the batch ends with its
    key."""
    if status == 200:
        return Verdict(Fate.DONE)
    code = _code(body)
    wait_s = float(retry_after) if retry_after.isdigit() and len(retry_after) < 5 else None
    if code in ("no_spare_capacity", "preempted"):
        wait_s = None  # it may be gone in a moment: the pace knows better
    if code in ("budget_exceeded", "endpoint_stopped"):
        wait_s = _LATER_S
    if code in _PATIENT:
        return Verdict(Fate.AGAIN, code, wait_s)
    if status in (408, 409, 429) or status >= 500:
        return Verdict(Fate.FAULT, code or f"http_{status}", wait_s)
    return Verdict(Fate.FAILED, code)


def _code(body: bytes) -> str:
    try:
        found = msgspec.json.decode(body, type=_Refusal)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return ""
    return (found.error.code or "") if found.error is not None else ""
