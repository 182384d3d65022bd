"""From a stretch of serving to seconds that can be billed. Pure: no database, no clock.

A replica's node counts how long it served; the control plane's own clock bounds that count. The
whole seconds fall into the minutes of the clock, and a minute is handed out once: when it is
over, or when the stretch is. Whatever is repeated, the slices of a stretch add up to the whole
seconds that it served; its last fraction of a second is the tenant's.
"""

import math
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from fractions import Fraction

MINUTE = timedelta(minutes=1)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class Slice:
    """Whole seconds served within one minute, which `minute_epoch` names by its Unix seconds."""

    minute_epoch: int
    seconds: int
    after_s: int = 0  # seconds of this minute that were handed out before

    @property
    def name(self) -> str:
        """Unique within the stretch: the minute, and for what came late to it, its place in it."""
        return f"{self.minute_epoch}+{self.after_s}" if self.after_s else f"{self.minute_epoch}"

    @property
    def at(self) -> datetime:
        return _EPOCH + timedelta(seconds=self.minute_epoch)


def agreed_s(served_s: float, proved_us: int | None) -> float | Fraction:
    """What the control plane counted and signed records prove; None: its agent keeps none."""
    if proved_us is None or not math.isfinite(served_s):
        return served_s
    return min(Fraction(served_s), Fraction(proved_us, 1_000_000))


def bounded_s(
    started_at: datetime, ended_at: datetime | None, served_s: float | Fraction, now: datetime
) -> Fraction:
    """Seconds served: the node's count, but never more than the clock here has seen."""
    elapsed = (now if ended_at is None else min(ended_at, now)) - started_at
    clock = Fraction(elapsed // timedelta(microseconds=1), 1_000_000)
    count = Fraction(served_s) if math.isfinite(served_s) else Fraction(0)
    return max(Fraction(0), min(count, clock))


def slices(
    *,
    started_at: datetime,
    ended_at: datetime | None,
    served_s: float | Fraction,
    metered_s: int,
    now: datetime,
) -> list[Slice]:
    """The slices that are due beyond the `metered_s` whole seconds already handed out.

    A full minute gets what follows from where the stretch began, and nothing else. The last one
    is handed out when the stretch ends; where the node's count still grows after that (its final
    report was late), the rest of that minute is a slice with a name of its own.
    """
    served = bounded_s(started_at, ended_at, served_s, now)
    total = math.floor(served)
    closed = ended_at is not None and ended_at <= now
    # Minutes that lie before what was handed out are not walked again.
    minute = _minute_of(started_at + timedelta(seconds=metered_s))
    done = metered_s
    due = []
    while done < total:
        bound = _seconds_before(minute + MINUTE, started_at)
        if bound > served and not closed:
            break
        reached = min(math.floor(bound), total)
        if reached > done:
            first = max(0, math.floor(_seconds_before(minute, started_at)))
            due.append(Slice(_epoch(minute), reached - done, done - first))
            done = reached
        minute += MINUTE
    return due


def unmetered_s(
    *,
    started_at: datetime,
    ended_at: datetime | None,
    served_s: float | Fraction,
    metered_s: int,
    now: datetime,
) -> int:
    """Whole seconds that were served and are not yet usage: what a running cost adds."""
    return max(0, math.floor(bounded_s(started_at, ended_at, served_s, now)) - metered_s)


def _minute_of(moment: datetime) -> datetime:
    return moment.astimezone(UTC).replace(second=0, microsecond=0)


def _seconds_before(moment: datetime, started_at: datetime) -> Fraction:
    return Fraction((moment - started_at) // timedelta(microseconds=1), 1_000_000)


def _epoch(minute: datetime) -> int:
    return (minute - _EPOCH) // timedelta(seconds=1)
