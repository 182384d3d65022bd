"""The runaway brake: what a run does that no run should do for long, and what is done about it.

A run with all below it is one here, its root. Watched are calls and money by the minute, depth,
and prompts that come again. All but depth are counts that fade, so that a run that waits is let
go. Pure, and by each process for itself; of prompts there is a hash, of at most their last bytes.
"""

import math
from collections.abc import Callable

import msgspec

from gateway.budgets import Run

NONE, WARN, SLOW, PAUSE, STOP, LIMIT = range(6)  # the last refuses this call alone
RUNS_MAX = 10_000
PROMPTS_MAX = 32  # of a run
MINUTE_S = 60.0
PROMPT_S = 300.0  # a prompt's count fades by this
DEPTH_WAIT_S = 60.0  # nothing fades there
_TAIL = 512  # bytes of a prompt
_NANO = 1e9


class Steps(msgspec.Struct, frozen=True, gc=False):
    """From which value on what is done; None: never."""

    warn: float | None = None
    slow: float | None = None
    pause: float | None = None
    stop: float | None = None

    def step(self, value: float) -> int:
        if self.stop is not None and value >= self.stop:
            return STOP
        if self.pause is not None and value >= self.pause:
            return PAUSE
        if self.slow is not None and value >= self.slow:
            return SLOW
        return WARN if self.warn is not None and value >= self.warn else NONE


class RunPolicy(msgspec.Struct, frozen=True):
    """A project's. Its default warns, and does no more."""

    max_depth: int | None = None
    max_seconds: float | None = None  # from the first call that this process has seen
    slow_s: float = 2.0  # what is slowed down waits so long
    calls_per_minute: Steps = Steps(warn=600)
    eur_per_minute: Steps = Steps(warn=1)
    depth: Steps = Steps(warn=7)
    repeats: Steps = Steps(warn=10)


DEFAULT = RunPolicy()


class Verdict(msgspec.Struct, frozen=True, gc=False):
    step: int
    why: str = ""
    wait_s: float = 0.0  # of a pause: until the step is none, if nothing comes meanwhile


FINE = Verdict(NONE)


class Fading:
    """A count of which 1/e is left after `fades_s`: at an even pace, so many in that time."""

    __slots__ = ("_at", "_fades_s", "_value")

    def __init__(self, fades_s: float, now: float) -> None:
        self._fades_s = fades_s
        self._value = 0.0
        self._at = now

    def value(self, now: float) -> float:
        value = self._value
        return value and value * math.exp(min(0.0, self._at - now) / self._fades_s)

    def add(self, amount: float, now: float) -> float:
        self._value = value = self.value(now) + amount
        self._at = now
        return value

    def below(self, least: float, now: float) -> float:
        """Seconds until it is less than `least`; of nothing, until hardly anything is left."""
        value, least = self.value(now), max(least, 0.01)
        return self._fades_s * math.log(value / least) if value > least else 0.0

    def room(self, least: float, now: float) -> float:
        """Seconds until one more leaves it below `least`."""
        return self.below(least - 1, now)


class _Seen:
    __slots__ = ("began", "calls", "nano_eur", "prompts")

    def __init__(self, now: float) -> None:
        self.began = now
        self.calls = Fading(MINUTE_S, now)
        self.nano_eur = Fading(MINUTE_S, now)
        self.prompts: dict[int, Fading] = {}


class Brake:
    """All times are of one clock, in seconds."""

    def __init__(self) -> None:
        self._runs: dict[str, _Seen] = {}  # by root; who called last is last

    def __len__(self) -> int:
        return len(self._runs)

    def look(self, run: Run, policy: RunPolicy, prompt: int | None, now: float) -> Verdict:
        """A call comes, whether or not it will be let through. `prompt`: its fingerprint,
        if it has one."""
        seen = self._seen(run.refs[0], now)
        depth = len(run.refs)
        if policy.max_depth is not None and depth > policy.max_depth:
            return Verdict(LIMIT, f"is deeper than {policy.max_depth} levels")
        if policy.max_seconds is not None and now - seen.began > policy.max_seconds:
            return Verdict(LIMIT, f"takes longer than {policy.max_seconds:g} s")
        calls = seen.calls.add(1, now)
        repeats, again = seen.calls, 0.0
        if prompt is not None:
            repeats = self._repeats(seen, prompt, now)
            again = repeats.add(1, now)
        eur = seen.nano_eur.value(now) / _NANO
        fine = not (
            policy.calls_per_minute.step(calls)
            or policy.eur_per_minute.step(eur)
            or policy.depth.step(depth)
            or policy.repeats.step(again)
        )
        if fine:
            return FINE  # nearly always: what follows takes longer
        worst = FINE
        for steps, value, words, wait in (
            (policy.calls_per_minute, calls, "%.0f calls in a minute", seen.calls.room),
            (policy.eur_per_minute, eur, "%.2f EUR in a minute", _scaled(seen.nano_eur)),
            (policy.depth, depth, "%d levels deep", _constant),
            (policy.repeats, again, "the same prompt %.0f times", repeats.room),
        ):
            step = steps.step(value)
            wait_s = wait(steps.pause or 0.0, now) if step == PAUSE else 0.0
            if (step, wait_s) > (worst.step, worst.wait_s):
                worst = Verdict(step, words % value, wait_s)
        return worst

    def paid(self, run: Run, nano_eur: int, now: float) -> None:
        seen = self._runs.get(run.refs[0])
        if seen is not None:
            seen.nano_eur.add(nano_eur, now)

    def _seen(self, root: str, now: float) -> _Seen:
        seen = self._runs.pop(root, None)
        if seen is None:
            seen = _Seen(now)
            if len(self._runs) >= RUNS_MAX:
                del self._runs[next(iter(self._runs))]
        self._runs[root] = seen
        return seen

    def _repeats(self, seen: _Seen, prompt: int, now: float) -> Fading:
        found = seen.prompts.pop(prompt, None)
        if found is None:
            found = Fading(PROMPT_S, now)
            if len(seen.prompts) >= PROMPTS_MAX:
                del seen.prompts[next(iter(seen.prompts))]
        seen.prompts[prompt] = found
        return found


def fingerprint(prompt: bytes | memoryview) -> int:
    """Nearly the same prompts have the same: those that end alike and are about as long."""
    view = memoryview(prompt)
    return hash((bytes(view[-_TAIL:]), len(view).bit_length()))


def _scaled(nano_eur: Fading) -> Callable[[float, float], float]:
    return lambda eur, now: nano_eur.below(eur * _NANO, now)


def _constant(least: float, now: float) -> float:
    return DEPTH_WAIT_S
