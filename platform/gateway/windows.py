"""The context windows of an endpoint's replicas, where they differ. Pure.

They do while a version with another context length takes over, and over devices of different
sizes. A request then goes to a replica that holds it, of those that may answer it.
"""

from collections.abc import Iterable, Sequence

from gateway import sizes
from gateway.directory import Replica
from gateway.request import Call
from gateway.sizes import Size


def spread(replicas: Sequence[Replica]) -> tuple[int | None, bool]:
    """The largest (None: none is known), and whether they differ."""
    known = {one.window for one in replicas if one.window is not None}
    return max(known, default=None), len(known) > 1


def smallest(replicas: Sequence[Replica]) -> int | None:
    """What every one of them holds; None: none is known."""
    return min((one.window for one in replicas if one.window is not None), default=None)


class Need:
    """Of one request: the window that it certainly needs, and the one that it probably does."""

    __slots__ = ("_beyond", "_least", "_likely")

    def __init__(self, call: Call, size: Size, expected: int) -> None:
        """`expected` tokens of the prompts together."""
        self._least = self._likely = 0
        self._beyond = 0  # an engine with this window has refused it
        if not call.operation.counts or "truncate_prompt_tokens" in call.fields:
            return
        asked, answer = size.asked or 0, int(call.operation.generates)
        if size.token_ids:
            self._least = max(size.token_ids + answer, asked)
            self._likely = size.token_ids + max(asked, answer)
            return
        self._least = asked
        if size.prompts == 1:
            self._least = max(asked, sizes.least(call))
        self._likely = expected // size.prompts + max(asked, answer)

    def outgrown(self, window: int) -> None:
        """Its engine says that the request does not fit into this one."""
        self._beyond = window

    def holding(self, replicas: Iterable[Replica]) -> list[Replica]:
        """Those that probably hold it; if there are none, those that may."""
        possible = [one for one in replicas if self._fits(one, max(self._least, self._beyond + 1))]
        return [one for one in possible if self._fits(one, self._likely)] or possible

    @staticmethod
    def _fits(replica: Replica, tokens: int) -> bool:
        return replica.window is None or replica.window >= tokens
