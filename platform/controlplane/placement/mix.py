"""What a node's free devices are worth to the replicas that may come: fragmentation, measured.

A device is a fragment to a replica that cannot use it: its share is too large, too few devices of
the node are whole, or CPU or memory ran out. Over the mix of what is asked for, the free device
that replicas can use is the node's worth; what a placement takes of it beyond its own demand is how
much fragmentation grows (Weng et al., "Beware of Fragmentation", USENIX ATC 2023).
"""

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate

WHOLE = 1000  # thousandths of a device
_MOST = 64  # shapes that are told apart: the rarest hardly change what is worth what
# Thousandths of a device that a node's worth of CPU, memory or devices left over counts for: of
# two nodes that fragment alike, the fuller one is taken, and the emptier one kept for large ones.
_LEFTOVER = 20.0


@dataclass(frozen=True, slots=True)
class Shape:
    """`count` devices of one node, `milli` thousandths of each; CPU in thousandths of a core."""

    count: int = 1
    milli: int = WHOLE
    cpu_milli: int = 0
    memory_mib: int = 0


@dataclass(frozen=True, slots=True)
class _Worth:
    """For nodes with so much CPU and memory: how probable it is that a share of a device is
    usable, by the step that it reaches; and by the number of whole devices, that they are."""

    share: tuple[float, ...]
    whole: tuple[float, ...]


class Mix:
    """What is asked for: shapes and how often. `largest`: what the largest node has, which CPU,
    memory and devices left over are measured by; 0: not counted."""

    def __init__(
        self,
        weights: Mapping[Shape, float],
        *,
        cpu_milli: int = 0,
        memory_mib: int = 0,
        devices: int = 8,
    ) -> None:
        often = sorted(weights.items(), key=lambda item: (-item[1], repr(item[0])))[:_MOST]
        total = sum(weight for _, weight in often) or 1.0
        self._shapes = [(shape, weight / total) for shape, weight in often if weight > 0]
        self._steps = sorted({shape.milli for shape, _ in self._shapes if shape.count == 1})
        self._step = [bisect_right(self._steps, milli) for milli in range(WHOLE + 1)]
        self._most = max((shape.count for shape, _ in self._shapes), default=1)
        self._cpu = sorted({shape.cpu_milli for shape, _ in self._shapes})
        self._memory = sorted({shape.memory_mib for shape, _ in self._shapes})
        self._worths: dict[tuple[int, int], _Worth] = {}
        self._cpu_price = _LEFTOVER / cpu_milli if cpu_milli else 0.0
        self._memory_price = _LEFTOVER / memory_mib if memory_mib else 0.0
        # What nodes that are alike cost: a pool has many of them.
        self._shares: dict[tuple[object, ...], tuple[float, int]] = {}
        self._device_price = _LEFTOVER / (devices * WHOLE) if devices else 0.0

    def usable(self, free: Sequence[int], cpu_milli: int, memory_mib: int) -> float:
        """Thousandths of these devices that what comes can use, on the average."""
        return self._usable(free, self._worth(cpu_milli, memory_mib))

    def block(self, free: Sequence[int], shape: Shape, cpu_milli: int, memory_mib: int) -> float:
        """What it costs to take `shape.count` whole devices: thousandths of a device that become
        fragments, and a little for what is left over. Comparable between nodes."""
        left = list(free)
        for _ in range(shape.count):
            left.remove(WHOLE)
        cpu, memory = cpu_milli - shape.cpu_milli, memory_mib - shape.memory_mib
        lost = self.usable(free, cpu_milli, memory_mib) - self.usable(left, cpu, memory)
        return lost + self._over(sum(left), cpu, memory)

    def share(
        self, free: tuple[int, ...], shape: Shape, cpu_milli: int, memory_mib: int
    ) -> tuple[float, int]:
        """The same for a part of one device, or all of it; and which, as an index into `free`.
        At least one has to have room."""
        key = (free, shape.milli, shape.cpu_milli, shape.memory_mib, cpu_milli, memory_mib)
        found = self._shares.get(key)
        if found is None:
            if len(self._shares) >= _KNOWN:
                self._shares.clear()
            found = self._shares[key] = self._share(free, shape, cpu_milli, memory_mib)
        return found

    def _share(
        self, free: tuple[int, ...], shape: Shape, cpu_milli: int, memory_mib: int
    ) -> tuple[float, int]:
        cpu, memory = cpu_milli - shape.cpu_milli, memory_mib - shape.memory_mib
        before, after = self._worth(cpu_milli, memory_mib), self._worth(cpu, memory)
        table, step, milli = after.share, self._step, shape.milli
        least, best = _NEVER, 0
        tried = set()
        for value in free:
            if value < milli or value in tried:
                continue
            tried.add(value)
            rest = value - milli
            lost = value * table[step[value]] - rest * table[step[rest]]
            if value == WHOLE and after.whole[-1]:
                whole, most = free.count(WHOLE), self._most
                lost += WHOLE * whole * after.whole[min(whole, most)]
                lost -= WHOLE * (whole - 1) * after.whole[min(whole - 1, most)]
            if lost < least or (lost == least and value < best):
                least, best = lost, value
        if before is not after:  # what CPU and memory are missing for from here on
            least += self._usable(free, before) - self._usable(free, after)
        return least + self._over(sum(free) - milli, cpu, memory), free.index(best)

    def _over(self, milli: int, cpu_milli: int, memory_mib: int) -> float:
        over = milli * self._device_price + cpu_milli * self._cpu_price
        return over + memory_mib * self._memory_price

    def _usable(self, free: Sequence[int], worth: _Worth) -> float:
        table, step = worth.share, self._step
        used = sum([milli * table[step[milli]] for milli in free])
        if not worth.whole[-1]:
            return used
        whole = free.count(WHOLE)
        return used + WHOLE * whole * worth.whole[min(whole, self._most)]

    def _worth(self, cpu_milli: int, memory_mib: int) -> _Worth:
        key = (bisect_right(self._cpu, cpu_milli), bisect_right(self._memory, memory_mib))
        found = self._worths.get(key)
        if found is None:
            found = self._worths[key] = self._table(cpu_milli, memory_mib)
        return found

    def _table(self, cpu_milli: int, memory_mib: int) -> _Worth:
        share = [0.0] * (len(self._steps) + 1)
        whole = [0.0] * (self._most + 1)
        for shape, weight in self._shapes:
            if shape.cpu_milli > cpu_milli or shape.memory_mib > memory_mib:
                continue
            if shape.count == 1:
                share[self._step[shape.milli]] += weight
            else:
                whole[shape.count] += weight
        return _Worth(tuple(accumulate(share)), tuple(accumulate(whole)))


_KNOWN = 100_000  # answers that are remembered
_NEVER = float("inf")

# Where nothing is known of what is asked for: any block that models stand on, as likely.
UNKNOWN = Mix({Shape(count): 1.0 for count in (1, 2, 4, 8)})
