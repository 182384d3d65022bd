"""The runaway brake: what a run does that no run should do for long, and what is done about it.

A run with all below it is one here, its root. Watched are calls and money by the minute, depth,
and prompts that come again. All but depth are counts that fade, so that a run that waits is let
go. All workers of a host count together, in memory that they share; of prompts there is a hash, of
at most their last bytes.
"""

import math

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


# A count that fades is two floats: its value, and when it was that. 1/e is left after `fades_s`:
# at an even pace, so many in that time.
def _faded(floats: "memoryview[float]", where: int, fades_s: float, now: float) -> float:
    value = floats[where]
    return value and value * math.exp(min(0.0, floats[where + 1] - now) / fades_s)


def _add(
    floats: "memoryview[float]", where: int, amount: float, fades_s: float, now: float
) -> float:
    value = _faded(floats, where, fades_s, now) + amount
    floats[where], floats[where + 1] = value, now
    return value


def _until(least: float, value: float, fades_s: float) -> float:
    """Seconds until it has faded from `value` to `least`."""
    return fades_s * math.log(value / least) if value > least else 0.0


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
        calls = _add(floats, seen + _CALLS, 1, MINUTE_S, now)
        eur = _faded(floats, seen + _NANO_EUR, MINUTE_S, now) / _NANO
        again = 0.0
        if prompt is not None:
            again = _add(floats, self._repeats(root, prompt, now), 1, PROMPT_S, now)
        fine = not (
            policy.calls_per_minute.step(calls)
            or policy.eur_per_minute.step(eur)
            or policy.depth.step(depth)
            or policy.repeats.step(again)
        )
        return FINE if fine else _worst(policy, calls, eur, depth, again)

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
                _add(self._slots.floats, seen + _NANO_EUR, nano_eur, MINUTE_S, now)
        self._unpaid.clear()

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

    def _repeats(self, root: str, prompt: int, now: float) -> int:
        """Where a prompt is counted: its own place, or of the places it may have the one that
        nobody came to for longest."""
        slots, now_us = self._slots, int(now * 1e6)
        ends_us = now_us + int(5 * PROMPT_S * 1e6)
        slot = slots.find(f"{root}/{prompt % _BUCKETS}", ends_us, now_us)
        slots.words[slot + ENDS_US] = ends_us
        places = range(slot + FREE, slot + WORDS - 2, 3)
        for place in places:
            if slots.words[place] == prompt:
                return place + 1
        place = min(places, key=lambda each: slots.floats[each + 2])
        slots.words[place] = prompt
        slots.floats[place + 1], slots.floats[place + 2] = 0.0, now
        return place + 1


def _name(root: str) -> str:
    return f"run/{root}"


def fingerprint(prompt: bytes | memoryview) -> int:
    """Nearly the same prompts have the same: those that end alike and are about as long."""
    view = memoryview(prompt)
    return hash((bytes(view[-_TAIL:]), len(view).bit_length()))


def _worst(policy: RunPolicy, calls: float, eur: float, depth: int, again: float) -> Verdict:
    """A pause lasts until there is room for one more, or hardly anything is left; of depth
    nothing fades."""
    worst = FINE
    for steps, value, words, one, hardly, fades_s in (
        (policy.calls_per_minute, calls, "%.0f calls in a minute", 1, 0.01, MINUTE_S),
        (policy.eur_per_minute, eur, "%.2f EUR in a minute", 0, 1e-9, MINUTE_S),
        (policy.depth, depth, "%d levels deep", 0, 0, 0.0),
        (policy.repeats, again, "the same prompt %.0f times", 1, 0.01, PROMPT_S),
    ):
        step, wait_s = steps.step(value), 0.0
        if step == PAUSE and fades_s:
            wait_s = _until(max((steps.pause or 0.0) - one, hardly), value, fades_s)
        elif step == PAUSE:
            wait_s = DEPTH_WAIT_S
        if (step, wait_s) > (worst.step, worst.wait_s):
            worst = Verdict(step, words % value, wait_s)
    return worst
