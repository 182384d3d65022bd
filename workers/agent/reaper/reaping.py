"""The reaper of an agent, from its settings: looks, findings, and which devices may be used."""

import logging
from typing import Protocol

import msgspec

from controlplane.fleet import wire
from workers.agent import places
from workers.agent.containers.ours import OurContainers
from workers.agent.events import Events
from workers.agent.health import nvml
from workers.agent.health.cards import Reading
from workers.agent.inventory import KNOWN_GPUS
from workers.agent.reaper.devices import Devices
from workers.agent.reaper.observe import Observer
from workers.agent.reaper.reaper import Reaper
from workers.agent.reaper.things import Expected
from workers.agent.settings import Settings

log = logging.getLogger("stoa.agent")


class Known(Protocol):
    """The replicas of this node."""

    def expected(self) -> Expected: ...

    def used(self) -> set[int]: ...


class Reaping:
    """All but `findings` and `usable` block; one thread at a time."""

    def __init__(self, settings: Settings, events: Events) -> None:
        self._settings = settings
        self._containers = containers = OurContainers(settings.directory, settings.containers)
        where = places.of(settings)
        self.devices = Devices(
            settings.directory,
            where,
            events,
            containers=containers,
            read_gpus=self._read_gpus,
            residue_bytes=settings.residue_bytes,
            dirty_after_s=settings.dirty_after_s,
        )
        self.reaper = Reaper(
            where,
            Observer(
                settings.directory,
                where,
                containers=containers,
                read_gpus=self._read_gpus,
                stale_weights_s=settings.stale_weights_s,
            ),
            events,
            containers=containers,
            grace_s=settings.reap_grace_s,
            alone=settings.alone,
        )

    def first(self, known: Known) -> None:
        """As the agent starts: what an earlier one left ends at once."""
        self._look(known, at_once=True)

    def look(self, known: Known) -> None:
        self._look(known, at_once=False)

    def close(self) -> None:
        self._containers.close()

    def findings(self) -> list[wire.Finding]:
        return [*self.devices.findings(), *self.reaper.findings()]

    def usable(self, inventory: wire.Inventory) -> wire.Inventory:
        """The inventory, in which no dirty device is well."""
        dirty = self.devices.dirty
        if not dirty:
            return inventory
        devices = [
            msgspec.structs.replace(one, healthy=one.healthy and one.index not in dirty)
            for one in inventory.devices
        ]
        return msgspec.structs.replace(inventory, devices=devices)

    def _look(self, known: Known, *, at_once: bool) -> None:
        try:
            self.reaper.look(known.expected, at_once=at_once)
            self.devices.look(known.used())
        except OSError:  # the next look is a minute away, and engines run on
            log.exception("the look at what runs was not finished")

    def _read_gpus(self) -> Reading | None:
        # Where the operator says what devices there are, GPUs are none of ours.
        reading = None if self._settings.devices else nvml.read()
        if reading is not None and reading.error and not self._has_gpus():
            return None  # a driver without a GPU: the devices are shares of the CPU
        return reading

    def _has_gpus(self) -> bool:
        return (self._settings.directory / KNOWN_GPUS).exists()
