"""A request's place in a trace (W3C Trace Context): whose child it is, and who its engine's is."""

import random
import re
from dataclasses import dataclass

_PARENT = re.compile(rb"(?!ff)([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")
_NO_TRACE, _NO_SPAN = b"0" * 32, b"0" * 16
_SHARE = 1 << 63


class Trace:
    """`span` is the request's own, `engine_span` that of asking the engine. Ids in hex."""

    __slots__ = ("engine_span", "id", "parent", "sampled", "span")

    def __init__(self, id: str, parent: str, sampled: bool) -> None:
        self.id = id
        self.parent = parent  # empty: it begins here
        self.sampled = sampled
        ids = f"{random.getrandbits(128):032x}"
        self.span, self.engine_span = ids[:16], ids[16:]

    def header(self) -> bytes:
        """What the engine gets, sampled or not, so that it decides as we did."""
        return f"traceparent: 00-{self.id}-{self.engine_span}-0{self.sampled:d}\r\n".encode()


@dataclass(frozen=True, slots=True)
class Sampler:
    """Which traces are kept: a share of those that begin here; others as their parent says."""

    share: float = 1.0
    follows: bool = True

    def begin(self, traceparent: bytes | None) -> Trace:
        """The trace of a request with this header; what is malformed starts a new one."""
        found = _PARENT.fullmatch(traceparent) if traceparent else None
        if found is None or found[2] == _NO_TRACE or found[3] == _NO_SPAN or _too_long(found):
            trace_id = f"{random.getrandbits(128) or 1:032x}"
            return Trace(trace_id, "", self._kept(trace_id))
        trace_id = found[2].decode()
        sampled = bool(int(found[4], 16) & 1) if self.follows else self._kept(trace_id)
        return Trace(trace_id, found[3].decode(), sampled)

    def _kept(self, trace_id: str) -> bool:
        return self.share >= 1 or (int(trace_id, 16) & (_SHARE - 1)) < self.share * _SHARE


def _too_long(found: re.Match[bytes]) -> bool:
    """Only a version after ours may say more."""
    return found[1] == b"00" and found[5] is not None
