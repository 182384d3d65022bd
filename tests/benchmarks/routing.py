"""The gateway's router on a recorded hour of prompts, against simulated replicas.

Every request of the trace goes through `gateway.pools`, which sees only its own dispatches, first
bytes and ends; it is told neither a replica's cache, nor its speed, nor its queue. A replica keeps
2,000 blocks of 512 tokens (LRU), prefills one prompt after another at 8,000 tokens a second and
decodes at 40. Load 0.64 is the trace's own speed on 8 of them.
"""

import argparse
import heapq
import itertools
import json
import random
import statistics
import sys
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from gateway.directory import Replica
from gateway.pools import Pool
from gateway.prefixes import BLOCK
from gateway.router import Ticket
from tests.figures import figure

ROOT = Path(__file__).resolve().parents[2]
TRACE = ROOT.parent / "shared/data/traces/mooncake_conversation.jsonl"
TRACE_LOAD = 0.64  # of 8 replicas, if nothing were cached

TOKENS = 512  # in a block of the trace
CACHE_BLOCKS = 2_000
TREE_BLOCKS = 8_192  # what SGLang's router remembers of a replica: 2**24 characters
PREFILL_TPS = 8_000.0
DECODE_TPS = 40.0
LOSS_EVERY_S = 300.0  # in the variant where caches are lost
PATROL_S = 0.5  # as the gateway's clock


@dataclass(frozen=True, slots=True)
class Prompt:
    at: float
    tokens: int
    output: int
    blocks: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Setting:
    """`lost`: the share of the replicas that lose their cache every five minutes, unannounced."""

    replicas: int = 8
    load: float = TRACE_LOAD
    lost: float = 0.0


@dataclass(frozen=True, slots=True)
class Outcome:
    hit: float
    mean: float
    p50: float
    p90: float
    p99: float


class Policy(Protocol):
    def choose(self, prompt: Prompt, now: float) -> tuple[int, Any]: ...
    def first_byte(self, token: Any, now: float) -> None: ...
    def end(self, token: Any, now: float) -> None: ...


# --- the replicas ---------------------------------------------------------------------------
class Blocks:
    """An LRU of blocks. A prompt's last ones go first, as in the engines: they hang on the rest."""

    def __init__(self, capacity: int = CACHE_BLOCKS) -> None:
        self._capacity = capacity
        self._held: OrderedDict[int, None] = OrderedDict()

    def __len__(self) -> int:
        return len(self._held)

    def match(self, blocks: Sequence[int]) -> int:
        return sum(1 for _ in itertools.takewhile(self._held.__contains__, blocks))

    def add(self, blocks: Sequence[int]) -> None:
        held = self._held
        for block in reversed(blocks):
            held[block] = None
            held.move_to_end(block)
        while len(held) > self._capacity:
            held.popitem(last=False)


def play(prompts: Iterable[Prompt], policy: Policy, setting: Setting) -> Outcome:
    count, speed = setting.replicas, setting.load / TRACE_LOAD * setting.replicas / 8
    caches = [Blocks() for _ in range(count)]
    free_at = [0.0] * count
    events: list[tuple[float, int, Callable[[Any, float], None], Any]] = []
    serial, chance = itertools.count(), random.Random(7)
    next_loss = LOSS_EVERY_S
    waits, hit, total = [], 0, 0
    for prompt in prompts:
        now = prompt.at / speed
        while events and events[0][0] <= now:
            at, _, tell, token = heapq.heappop(events)
            tell(token, at)
        if setting.lost and now > next_loss:
            next_loss += LOSS_EVERY_S
            for unlucky in chance.sample(range(count), max(1, round(setting.lost * count))):
                caches[unlucky] = Blocks()
        index, token = policy.choose(prompt, now)
        cached = min(prompt.tokens, caches[index].match(prompt.blocks) * TOKENS)
        caches[index].add(prompt.blocks)
        first = max(now, free_at[index]) + max(1, prompt.tokens - cached) / PREFILL_TPS
        free_at[index] = first
        heapq.heappush(events, (first, next(serial), policy.first_byte, token))
        last = first + prompt.output / DECODE_TPS
        heapq.heappush(events, (last, next(serial), policy.end, token))
        waits.append(first - now)
        hit, total = hit + cached, total + prompt.tokens
    cuts = statistics.quantiles(waits, n=100, method="inclusive")
    return Outcome(hit / total, statistics.fmean(waits), cuts[49], cuts[89], cuts[98])


# --- ours -----------------------------------------------------------------------------------
class Ours:
    """`index=False`: the same estimate of the queues, and no idea of what is cached."""

    def __init__(self, count: int, *, index: bool = True) -> None:
        self._index = index
        self._pool = Pool()
        self._pool.adopt([Replica(str(number), "", "") for number in range(count)])
        self._patrolled = 0.0

    def choose(self, prompt: Prompt, now: float) -> tuple[int, Ticket]:
        if now - self._patrolled > PATROL_S:
            self._patrolled = now
            assert not self._pool.patrol(now), "a healthy replica was put out"
        size = max(1, prompt.tokens * BLOCK // TOKENS)
        ticket = self._pool.dispatch(size, prompt.blocks if self._index else (), now)
        assert ticket is not None
        return int(ticket.lane.id), ticket

    def first_byte(self, ticket: Ticket, now: float) -> None:
        ticket.lane.first_byte(ticket, now)

    def end(self, ticket: Ticket, now: float) -> None:
        ticket.lane.end(ticket, now)


# --- the others -----------------------------------------------------------------------------
class Counting:
    """What the others go by: requests and tokens in flight."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.requests = [0] * count
        self.tokens = [0] * count
        self.chance = random.Random(1)

    def pick(self, prompt: Prompt) -> int:
        return self.chance.randrange(self.count)

    def choose(self, prompt: Prompt, now: float) -> tuple[int, tuple[int, int]]:
        index, tokens = self.pick(prompt), prompt.tokens + prompt.output
        self.requests[index] += 1
        self.tokens[index] += tokens
        return index, (index, tokens)

    def first_byte(self, token: tuple[int, int], now: float) -> None:
        pass

    def end(self, token: tuple[int, int], now: float) -> None:
        index, tokens = token
        self.requests[index] -= 1
        self.tokens[index] -= tokens


class PowerOfTwo(Counting):
    def pick(self, prompt: Prompt) -> int:
        return min(self.chance.sample(range(self.count), 2), key=self.tokens.__getitem__)


class SglangLike(Counting):
    """The longest match while the replicas are in balance, else the fewest requests."""

    def __init__(self, count: int, apart: int, times: float, enough: float) -> None:
        super().__init__(count)
        self._apart, self._times, self._enough = apart, times, enough
        self._trees = [Blocks(TREE_BLOCKS) for _ in range(count)]

    def pick(self, prompt: Prompt) -> int:
        most, fewest = max(self.requests), min(self.requests)
        everyone = range(self.count)
        if most - fewest > self._apart and most > self._times * fewest:
            index = min(everyone, key=self.requests.__getitem__)
        else:
            matches = [tree.match(prompt.blocks) * TOKENS / prompt.tokens for tree in self._trees]
            index = max(everyone, key=matches.__getitem__)
            if matches[index] <= self._enough:
                index = min(everyone, key=lambda one: (len(self._trees[one]), self.requests[one]))
        self._trees[index].add(prompt.blocks)
        return index


def sglang_like(prompts: list[Prompt], setting: Setting) -> Outcome:
    """The better of its two known settings."""
    tried = ((32, 1.1, 0.5), (64, 1.5, 0.3))
    outcomes = [play(prompts, SglangLike(setting.replicas, *one), setting) for one in tried]
    return min(outcomes, key=lambda outcome: outcome.mean)


# --- the report -----------------------------------------------------------------------------
VARIANTS = {
    "load_0.3": Setting(load=0.3),
    "load_0.9": Setting(load=0.9),
    "replicas_4": Setting(replicas=4),
    "replicas_16": Setting(replicas=16),
    "caches_lost": Setting(lost=0.3),
}
AIMS = {"sglang_like": 0.65, "backlog_only": 0.85}  # mean time to a first byte, ours / theirs
VARIANT_AIM = 0.85


def read(path: Path) -> list[Prompt]:
    prompts = []
    with path.open() as lines:
        for line in lines:
            row = json.loads(line)
            tokens, blocks = row["input_length"], tuple(row["hash_ids"])
            prompts.append(Prompt(row["timestamp"] / 1000, tokens, row["output_length"], blocks))
    return prompts


def show(name: str, outcome: Outcome) -> None:
    print(
        f"{name:24} {outcome.hit:6.1%} {outcome.mean:8.3f} {outcome.p50:8.3f}"
        f" {outcome.p90:8.3f} {outcome.p99:8.3f}",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trace", type=Path, default=TRACE, help="JSON lines, as Mooncake's")
    path = parser.parse_args().trace
    if not path.is_file():
        sys.exit(
            f'no trace at {path}: pass one with ARGS="--trace FILE". A line of it is'
            ' {"timestamp": ms, "input_length": tokens, "output_length": tokens,'
            ' "hash_ids": [a number for each block of 512 tokens and all before it]};'
            " Mooncake publishes one as conversation_trace.jsonl."
        )
    prompts = read(path)
    print(f"{len(prompts)} requests of {path.name}; seconds to the first byte\n")
    print(f"{'':24} {'hits':>6} {'mean':>8} {'p50':>8} {'p90':>8} {'p99':>8}")
    usual = Setting()
    ours = play(prompts, Ours(usual.replicas), usual)
    theirs = {
        "sglang_like": sglang_like(prompts, usual),
        "backlog_only": play(prompts, Ours(usual.replicas, index=False), usual),
        "power_of_two": play(prompts, PowerOfTwo(usual.replicas), usual),
        "random": play(prompts, Counting(usual.replicas), usual),
    }
    for name, outcome in {"ours": ours, **theirs}.items():
        show(name, outcome)
    variants = {}
    for name, setting in VARIANTS.items():
        pair = play(prompts, Ours(setting.replicas), setting), sglang_like(prompts, setting)
        variants[name] = pair
        show(f"{name}: ours", pair[0])
        show(f"{name}: sglang_like", pair[1])
    missed = [name for name, aim in AIMS.items() if ours.mean > aim * theirs[name].mean]
    missed += [f"p99 {name}" for name in AIMS if ours.p99 > theirs[name].p99]
    missed += [name for name, (a, b) in variants.items() if a.mean > VARIANT_AIM * b.mean]
    print(f"\nbeyond the aim: {', '.join(missed) or 'nothing'}\n")
    for name, other in theirs.items():
        figure("routing.mean_ttft_s", ours.mean, "s", vs=name, than=other.mean)
    for name, other in theirs.items():
        figure("routing.p99_ttft_s", ours.p99, "s", vs=name, than=other.p99)
    for name, (mine, other) in variants.items():
        figure(f"routing.{name}.mean_ttft_s", mine.mean, "s", vs="sglang_like", than=other.mean)


if __name__ == "__main__":
    main()
