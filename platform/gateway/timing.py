"""Where a request's time went: waiting, the engine's two phases, and our own work.

The clock is `time.monotonic`: the event loop's own is the same, but in whole milliseconds.
"""

from gateway.engine_times import EngineTimes

_WHOLE = (
    b"server-timing: queue;dur=%.1f, wake;dur=%.1f, prefill;dur=%.1f, decode;dur=%.1f, "
    b"gateway;dur=%.2f\r\n"
)
_UNSPLIT = b"server-timing: queue;dur=%.1f, wake;dur=%.1f, inference;dur=%.1f, gateway;dur=%.2f\r\n"

# Milliseconds: queue, wake, prefill, decode, gateway. They add up to all the time since the
# request was there. `decode` is None where nobody can tell it from `prefill`: a whole answer
# comes in one piece, and only some engines say more.
Split = tuple[float, float, float, float | None, float]


def header(split: Split) -> bytes:
    """The line of a head: Server-Timing as W3C has it."""
    if split[3] is None:
        return _UNSPLIT % (split[0], split[1], split[2], split[4])
    return _WHOLE % split


def pace(split: Split) -> tuple[int, int]:
    """Microseconds to the first token, and from there to the last; zeros where they are one."""
    queue, _, prefill, decode, _ = split
    if not decode or decode < 0:
        return 0, 0
    return max(0, int((queue + prefill) * 1000)), int(decode * 1000)


def comment(split: Split) -> bytes:
    """The same for a stream whose head has left. SDKs skip comments, wherever they stand."""
    return b": %b\n" % header(split)[:-2]


class Timing:
    """Moments of one request, 0.0 where there was none yet; and sums of waiting, in seconds."""

    __slots__ = ("arrived", "asked", "first", "last", "queue", "read", "wake")

    def __init__(self, arrived: float) -> None:
        self.arrived = arrived  # its first byte
        self.read = arrived  # all of it, and its turn on its connection
        self.queue = 0.0  # waiting for room on a replica
        self.wake = 0.0  # waiting for a replica at all
        self.asked = 0.0  # an engine, for the first time
        self.first = 0.0  # of a stream's answer
        self.last = 0.0  # the end of what the engine said

    def split(self, now: float, told: EngineTimes | None = None, *, decodes: bool = True) -> Split:
        """`told` is the engine's own account; `decodes` is false for what generates nothing."""
        queue, wake, asked = self.queue, self.wake, self.asked
        if not asked:
            own = now - self.read - queue - wake
            return queue * 1000, wake * 1000, 0.0, 0.0, own * 1000
        last = self.last or now
        # Retries after `asked` are the engine's time, and so is what they waited.
        own = max(0.0, asked - self.read - queue - wake) + now - last
        queue_ms = queue * 1000
        decode: float | None
        if self.first:
            prefill, decode = (self.first - asked) * 1000, (last - self.first) * 1000
            if told is not None:
                waited = min(prefill, told.queue)
                queue_ms += waited
                prefill -= waited
        elif told is not None and told.decode is not None:
            engine = (last - asked) * 1000
            waited = min(engine, told.queue)
            decode = min(engine - waited, told.decode)
            queue_ms += waited
            prefill = engine - waited - decode
        else:
            prefill = (last - asked) * 1000
            decode = None if decodes and self.last else 0.0
        return queue_ms, wake * 1000, prefill, decode, own * 1000
