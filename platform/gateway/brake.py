"""The runaway brake: what a run does that no run should do for long, and what is done about it.

A run with all below it is one here, its root. Watched are calls and money by the minute, depth,
and prompts that come again. All but depth are counts that fade, so that a run that waits is let
go. All workers of a host count together, in memory that they share; of prompts there is a hash, of
at most their last bytes.
"""

import math
from collections.abc import Callable

import msgspec

from gateway.budgets import Run
from gateway.table import ENDS_US, FREE, WORDS, Slots

NONE, WARN, SLOW, PAUSE, STOP, LIMIT = range(6)  # the last refuses this call alone
SLOTS = 1 << 15  # for some 10,000 runs: a run has one, and some for its prompts
_BUCKETS = 2  # of nine prompts each
RUN_S = 86_400.0  # a run that is silent for so long begins anew
MINUTE_S = 60.0
PROMPT_S = 300.0  # a prompt's count fades by this
DEPTH_WAIT_S = 60.0  # nothing fades there
_TAIL = 512  # bytes of a prompt
_NANO = 1e9
_TELL_S = 0.05  # what is paid is told at most so often: each time takes the lock


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
    max_seconds: float | None = None  # from the first call that this host has seen
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
    """A count of which 1/e is left after `fades_s`: at an even pace, so many in that time.

    Its value and its time are the two floats from `where` on."""

    __slots__ = ("_fades_s", "_floats", "_where")

    def __init__(self, floats: "memoryview[float]", where: int, fades_s: float) -> None:
        self._floats = floats
        self._where = where
        self._fades_s = fades_s

    def value(self, now: float) -> float:
        value = self._floats[self._where]
        at = self._floats[self._where + 1]
        return value and value * math.exp(min(0.0, at - now) / self._fades_s)

    def add(self, amount: float, now: float) -> float:
        value = self.value(now) + amount
        self._floats[self._where] = value
        self._floats[self._where + 1] = now
        return value

    def below(self, least: float, now: float) -> float:
        """Seconds until it is less than `least`; of nothing, until hardly anything is left."""
        value, least = self.value(now), max(least, 0.01)
        return self._fades_s * math.log(value / least) if value > least else 0.0

    def room(self, least: float, now: float) -> float:
        """Seconds until one more leaves it below `least`."""
        return self.below(least - 1, now)


# Of a run's slot: whether it began, when, and two counts of two words each.
_BEGUN, _BEGAN, _CALLS, _NANO_EUR = FREE, FREE + 1, FREE + 2, FREE + 4


class Brake:
    """All times are of one clock that the workers share, in seconds.

    Of many runs, the one whose last call is longest ago is forgotten first."""

    def __init__(self, slots: Slots) -> None:
        self._slots = slots
        self._unpaid: dict[str, int] = {}  # nanoeuro, of what ended since we told the others
        self._told_at = -math.inf

    def look(self, run: Run, policy: RunPolicy, prompt: int | None, now: float) -> Verdict:
        """A call comes, whether or not it will be let through. `prompt`: its fingerprint,
        if it has one."""
        self._slots.lock()
        try:
            if self._unpaid:
                self._tell(now)
            return self._look(run, policy, prompt, now)
        finally:
            self._slots.unlock()

    def _look(self, run: Run, policy: RunPolicy, prompt: int | None, now: float) -> Verdict:
        floats, root = self._slots.floats, run.refs[0]
        seen = self._seen(root, now)
        depth = len(run.refs)
        if policy.max_depth is not None and depth > policy.max_depth:
            return Verdict(LIMIT, f"is deeper than {policy.max_depth} levels")
        if policy.max_seconds is not None and now - floats[seen + _BEGAN] > policy.max_seconds:
            return Verdict(LIMIT, f"takes longer than {policy.max_seconds:g} s")
        pace, paid = self._pace(seen), self._paid(seen)
        calls = pace.add(1, now)
        repeats, again = pace, 0.0
        if prompt is not None:
            repeats = self._repeats(root, prompt, now)
            again = repeats.add(1, now)
        eur = paid.value(now) / _NANO
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
            (policy.calls_per_minute, calls, "%.0f calls in a minute", pace.room),
            (policy.eur_per_minute, eur, "%.2f EUR in a minute", _scaled(paid)),
            (policy.depth, depth, "%d levels deep", _constant),
            (policy.repeats, again, "the same prompt %.0f times", repeats.room),
        ):
            step = steps.step(value)
            wait_s = wait(steps.pause or 0.0, now) if step == PAUSE else 0.0
            if (step, wait_s) > (worst.step, worst.wait_s):
                worst = Verdict(step, words % value, wait_s)
        return worst

    def paid(self, run: Run, nano_eur: int, now: float) -> None:
        """The other workers hear of it with the next call or request that ends."""
        root = run.refs[0]
        self._unpaid[root] = self._unpaid.get(root, 0) + nano_eur
        if now - self._told_at >= _TELL_S:
            with self._slots.locked():
                self._tell(now)

    def _tell(self, now: float) -> None:
        self._told_at = now
        for root, nano_eur in self._unpaid.items():
            if seen := self._slots.seek(_name(root)):
                self._paid(seen).add(nano_eur, now)
        self._unpaid.clear()

    def _pace(self, seen: int) -> Fading:
        return Fading(self._slots.floats, seen + _CALLS, MINUTE_S)

    def _paid(self, seen: int) -> Fading:
        return Fading(self._slots.floats, seen + _NANO_EUR, MINUTE_S)

    def _seen(self, root: str, now: float) -> int:
        """The slot of a run."""
        slots, now_us = self._slots, int(now * 1e6)
        ends_us = now_us + int(RUN_S * 1e6)
        slot = slots.find(_name(root), ends_us, now_us)
        if not slots.words[slot + _BEGUN] or slots.words[slot + ENDS_US] < now_us:
            slots.words[slot + _BEGUN] = 1
            slots.floats[slot + _BEGAN] = now
            slots.floats[slot + _CALLS] = slots.floats[slot + _NANO_EUR] = 0.0
        slots.words[slot + ENDS_US] = ends_us
        return slot

    def _repeats(self, root: str, prompt: int, now: float) -> Fading:
        """Where a prompt is counted: its own place, or of the places it may have the one that
        nobody came to for longest."""
        slots, now_us = self._slots, int(now * 1e6)
        ends_us = now_us + int(5 * PROMPT_S * 1e6)
        slot = slots.find(f"{root}/{prompt % _BUCKETS}", ends_us, now_us)
        slots.words[slot + ENDS_US] = ends_us
        places = range(slot + FREE, slot + WORDS - 2, 3)
        for place in places:
            if slots.words[place] == prompt:
                return Fading(slots.floats, place + 1, PROMPT_S)
        place = min(places, key=lambda each: slots.floats[each + 2])
        slots.words[place] = prompt
        slots.floats[place + 1], slots.floats[place + 2] = 0.0, now
        return Fading(slots.floats, place + 1, PROMPT_S)


def _name(root: str) -> str:
    return f"run/{root}"


def fingerprint(prompt: bytes | memoryview) -> int:
    """Nearly the same prompts have the same: those that end alike and are about as long."""
    view = memoryview(prompt)
    return hash((bytes(view[-_TAIL:]), len(view).bit_length()))


def _scaled(nano_eur: Fading) -> Callable[[float, float], float]:
    return lambda eur, now: nano_eur.below(eur * _NANO, now)


def _constant(least: float, now: float) -> float:
    return DEPTH_WAIT_S
