"""All checks of a node, one after the other."""

import logging
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import msgspec

from controlplane.fleet.wire import Finding, Severity
from workers.agent import files
from workers.agent.health import dcgm, disk, memory, nvml, xid
from workers.agent.health.cards import Card, Reading
from workers.agent.health.clock import Clock
from workers.agent.health.gpus import Gpus, of_card
from workers.agent.health.kernel_log import KMSG, KernelLog
from workers.agent.inventory import KNOWN_GPUS
from workers.agent.settings import Settings

log = logging.getLogger("stoa.agent")

MOST = 200  # findings of a report
_ORDER = (Severity.CRITICAL, Severity.WARNING, Severity.INFO)


class Examination:
    """What a node remembers between two looks at itself. `read` asks the driver (blocking)."""

    def __init__(
        self,
        settings: Settings,
        clock: Clock,
        *,
        read: Callable[[], Reading | None] = nvml.read,
        since_boot: Callable[[], float] = lambda: time.clock_gettime(time.CLOCK_MONOTONIC),
    ) -> None:
        self._settings, self._clock, self._read = settings, clock, read
        self._known = settings.directory / KNOWN_GPUS
        self._gpus = Gpus(_known(self._known))
        self._kernel = KernelLog(settings.kernel_log or KMSG, since_boot)

    def findings(self) -> list[Finding]:
        """What is wrong now, the worst first. Blocks; one thread at a time."""
        settings = self._settings
        found = [
            *disk.findings((settings.directory, settings.cache)),
            *memory.findings(),
            *self._clock.findings(),
        ]
        if not settings.devices:  # where the operator says what there is, GPUs are not ours
            found += self._gpu_findings()
        return worst_first(found)

    def close(self) -> None:
        self._kernel.close()

    def _gpu_findings(self) -> list[Finding]:
        reading = self._read()
        shown = dcgm.read(self._settings.dcgm_url) if self._settings.dcgm_url else []
        if reading is None and not shown:
            return []
        cards = reading.cards if reading else []
        found = self._gpus.findings(reading) if reading else []
        if reading:
            self._remember()
        if isinstance(shown, Finding):
            found.append(shown)
        else:
            found += [one for card in shown for one in (*of_card(card), *_last_xid(card))]
            cards = cards or shown
        return [*found, *self._kernel.findings(cards)]

    def _remember(self) -> None:
        """Which GPUs there are: one that is gone after a restart is missed all the same."""
        content = msgspec.json.encode(self._gpus.known)
        if files.read(self._known) != content:
            files.write(self._known, content)


def worst_first(found: Iterable[Finding]) -> list[Finding]:
    """One for each check and device, the worst of them; no more than a report takes."""
    kept: dict[tuple[str, int | None], Finding] = {}
    for one in sorted(found, key=lambda one: _ORDER.index(one.severity)):
        kept.setdefault((one.check, one.device), one)
    return list(kept.values())[:MOST]


def _last_xid(card: Card) -> Iterable[Finding]:
    """The exporter shows the newest number until the driver is loaded again: no news by itself."""
    if card.xid and xid.meaning(card.xid) is not xid.Meaning.APPLICATION:
        yield xid.finding(card.xid, card.index, "the newest that dcgm-exporter saw")


def _known(path: Path) -> dict[int, str]:
    content = files.read(path)
    if content is None:
        return {}
    try:
        return msgspec.json.decode(content, type=dict[int, str])
    except msgspec.DecodeError:
        log.warning("%s is damaged: no GPU is missed until it was seen again", path)
        return {}
