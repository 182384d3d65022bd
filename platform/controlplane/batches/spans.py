"""Seconds in which an engine worked for a batch, from when its requests ran. Pure.

Only requests with a result count, each for the one attempt that brought it: time in which all of
a batch waited, was cut off or lay with a runner that died is no time of an engine's.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Ran:
    """One request. Times are seconds on one clock; tokens are the engine's own count, None where it
    told none; `done`: its answer was good."""

    began: float
    ended: float
    prompt: int | None
    output: int | None
    done: bool = True


@dataclass(frozen=True)
class Work:
    """Done in `seconds` of an engine's time. `shares` counts requests, one that was not over by its
    part; the tokens are those of them in the same way. `means` are of one good request."""

    seconds: float
    requests: int  # that ended
    shares: float
    prompt: float
    output: float
    counted: bool  # the engine told the tokens of each good one
    mean_prompt: float
    mean_output: float
    spread: float  # of answers: standard deviation over mean
    at_once: float  # requests under way in the mean of those seconds


def seconds(ran: Iterable[Ran]) -> float:
    """In which at least one of them ran."""
    return sum(end - begin for begin, end in _merged(ran))


def reached(ran: Iterable[Ran], wanted: float) -> float | None:
    """The moment by which they had run for so many seconds; None: not yet."""
    left = wanted
    for begin, end in _merged(ran):
        if end - begin >= left:
            return begin + left
        left -= end - begin
    return None


def work(ran: Sequence[Ran], until: float) -> Work:
    """What they had done by that moment. Of one that ran on then its prompt was read, and of its
    answer the part of its time."""
    begun = [each for each in ran if each.began < until]
    shares = [_share(each, until) for each in begun]
    good = [each for each in begun if each.done]
    counted = [each for each in good if each.prompt is not None and each.output is not None]
    prompts = [each.prompt or 0 for each in counted]
    outputs = [each.output or 0 for each in counted]
    mean = sum(outputs) / len(outputs) if outputs else 0.0
    off = sum((each - mean) ** 2 for each in outputs) / len(outputs) if outputs else 0.0
    parts = [Ran(each.began, min(each.ended, until), None, None) for each in begun]
    took = seconds(parts)
    return Work(
        seconds=took,
        requests=sum(each.ended <= until for each in begun),
        shares=sum(shares),
        prompt=float(sum(each.prompt or 0 for each in begun)),
        output=sum((each.output or 0) * part for each, part in zip(begun, shares, strict=True)),
        counted=bool(good) and len(counted) == len(good),
        mean_prompt=sum(prompts) / len(prompts) if prompts else 0.0,
        mean_output=mean,
        spread=off**0.5 / mean if mean else 0.0,
        at_once=sum(each.ended - each.began for each in parts) / took if took else 0.0,
    )


def _share(one: Ran, until: float) -> float:
    if one.ended <= until:
        return 1.0
    return (until - one.began) / (one.ended - one.began)


def _merged(ran: Iterable[Ran]) -> list[tuple[float, float]]:
    """Stretches of time, in order, that do not touch."""
    found: list[tuple[float, float]] = []
    for one in sorted(ran, key=lambda each: each.began):
        if found and one.began <= found[-1][1]:
            found[-1] = found[-1][0], max(found[-1][1], one.ended)
        elif one.ended >= one.began:
            found.append((one.began, one.ended))
    return found
