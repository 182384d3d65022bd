"""One look after the other: what is there, what should be, what ends."""

import logging
import time
from collections.abc import Callable, Iterable

from controlplane.fleet import wire
from workers.agent.events import Events
from workers.agent.places import Places
from workers.agent.processes import Marked
from workers.agent.reaper import act, ports
from workers.agent.reaper.judge import Key, judge
from workers.agent.reaper.observe import Containers, Observer
from workers.agent.reaper.things import Expected, Kind, Thing

log = logging.getLogger("stoa.agent")

CHECK = "orphan"
ROUNDS = 5  # within one look: who is being killed may have just forked
_TOLD = 8  # pids and sockets that one event names


class Reaper:
    """Of one agent. Blocks; one thread at a time."""

    def __init__(
        self,
        places: Places,
        observer: Observer,
        events: Events,
        *,
        containers: Containers | None = None,
        grace_s: float = 60.0,
        alone: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._places, self._observer, self._events = places, observer, events
        self._containers, self._grace_s, self._alone = containers, grace_s, alone
        self._clock = clock
        self._seen: dict[Key, float] = {}
        self._stay: list[wire.Finding] = []

    def look(self, expected: Callable[[], Expected], *, at_once: bool = False) -> int:
        """End what is unknown and has been so for the grace; how many things ended.

        `at_once`: without a grace, but for what may be a standby that somebody has just started.
        """
        ended = 0
        for _ in range(ROUNDS):
            things = self._observer.look()
            if at_once:
                things = [thing for thing in things if not thing.standby]
            # Asked after: what came up since then was not seen, and what was seen has its record.
            judged = judge(
                things,
                expected(),
                self._seen,
                self._clock(),
                grace_s=0.0 if at_once else self._grace_s,
                alone=self._alone,
            )
            self._seen = dict(judged.seen)
            for stranger in judged.tell:
                self._events.tell(wire.NodeEventKind.STRANGER_FOUND, _said([stranger]))
            gone, self._stay = self._end(judged.end, expected)
            ended += gone
            if not any(thing.kind is Kind.PROCESS for thing in judged.end) or self._stay:
                break
        return ended

    def killed(self, ended: list[Marked]) -> None:
        """An agent that starts ended these, before anything of its own ran."""
        named = sorted(one.process.pid for one in ended)
        detail: dict[str, str | int] = {"what": Kind.PROCESS.value, "count": len(named)}
        detail["pids"] = " ".join(map(str, named[:_TOLD]))
        if theirs := sorted({one.replica_id for one in ended if one.replica_id}):
            detail["replica"] = " ".join(theirs[:_TOLD])
        self._events.tell(wire.NodeEventKind.ORPHAN_ENDED, detail)

    def findings(self) -> list[wire.Finding]:
        """What would not end."""
        return list(self._stay)

    def _end(
        self, things: Iterable[Thing], expected: Callable[[], Expected]
    ) -> tuple[int, list[wire.Finding]]:
        groups: dict[Key, list[Thing]] = {}
        for thing in things:
            groups.setdefault(thing.key, []).append(thing)
        count, stay = 0, []
        for group in groups.values():
            said = _said(group)
            gone: list[Thing] = []
            why = ""
            for thing in group:
                if expected().knows(thing):
                    continue
                try:
                    if act.end(thing, self._places, self._containers):
                        gone.append(thing)
                    else:
                        why = "it stays"
                except OSError as error:
                    why = str(error)
            if gone:
                self._events.tell(wire.NodeEventKind.ORPHAN_ENDED, said)
                count += len(gone)
            if why:
                stay.append(_finding(group[0], why))
        return count, stay


def _said(group: list[Thing]) -> dict[str, str | int]:
    """What an event says of things that end together."""
    first = group[0]
    detail: dict[str, str | int] = {"what": first.kind.value, "count": len(group)}
    if first.replica_id:
        detail["replica"] = first.replica_id
    if first.pid:
        detail["pids"] = " ".join(str(thing.pid) for thing in group[:_TOLD])
        listens = sorted({where for thing in group for where in ports.of(thing.pid)})
        if listens:
            detail["listened"] = " ".join(listens[:_TOLD])
    else:
        detail["name"] = first.name
    return {**detail, **first.detail}


def _finding(thing: Thing, why: str) -> wire.Finding:
    return wire.Finding(
        check=CHECK,
        severity=wire.Severity.WARNING,
        text=f"{thing.kind.value} {thing.name} is nobody's and cannot be ended: {why}",
        cure="look at it on the node (ps, dmesg); a process in state D needs the machine restarted",
    )
