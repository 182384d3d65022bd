"""A node's agent as the control plane may meet it: it obeys the wish list, and no more."""

from dataclasses import dataclass, field

from controlplane.fleet import wire

START_PHASES = (wire.Phase.FETCHING, wire.Phase.STARTING, wire.Phase.PROBING, wire.Phase.READY)

INSOMNIAC = 1  # an engine on this device says that it can sleep, and refuses


@dataclass
class Engine:
    device: int
    sleep: bool = False  # as its wish says
    can_sleep: bool = True
    phase: wire.Phase = wire.Phase.FETCHING
    alive: bool = True


@dataclass
class Agent:
    """What a node knows. Engines and records outlive the agent's process; its version does not."""

    engines: dict[str, Engine] = field(default_factory=dict)
    version: int = 0
    listed: set[str] = field(default_factory=set)

    def apply(
        self, version: int, wishes: dict[str, int | None], asleep: frozenset[str] = frozenset()
    ) -> None:
        """`wishes`: replica id to its device, or None to stop it; `asleep` are those that should
        sleep. What happens, `work` does."""
        if version < self.version:
            return
        self.version, self.listed = version, set(wishes)
        for id, device in wishes.items():
            if device is not None and id not in self.engines:
                self.engines[id] = Engine(device)
        for id, engine in list(self.engines.items()):
            engine.sleep = id in asleep
            if wishes.get(id) is None and engine.alive:
                engine.phase = wire.Phase.DRAINING
            elif id not in wishes:
                del self.engines[id]

    def work(self) -> None:
        for engine in self.engines.values():
            if engine.phase is wire.Phase.DRAINING:
                engine.phase, engine.alive = wire.Phase.STOPPED, False
            elif not engine.alive:
                continue
            elif engine.phase is wire.Phase.ASLEEP:
                engine.can_sleep = engine.can_sleep and engine.device != INSOMNIAC
                if not (engine.sleep and engine.can_sleep):
                    engine.phase = wire.Phase.STARTING
            elif engine.phase is wire.Phase.READY:
                if engine.sleep and engine.can_sleep:
                    engine.phase = wire.Phase.ASLEEP
            else:
                engine.phase = START_PHASES[START_PHASES.index(engine.phase) + 1]

    def report(self) -> dict[str, wire.ReplicaReport]:
        """All that is in its list of wishes; the end of others it keeps to itself."""
        return {
            id: wire.ReplicaReport(
                replica_id=id,
                phase=engine.phase if engine.alive else _end(engine),
                address="unix:/run/engine.sock",
                can_sleep=engine.can_sleep,
            )
            for id, engine in self.engines.items()
            if id in self.listed
        }


def _end(engine: Engine) -> wire.Phase:
    return engine.phase if engine.phase is wire.Phase.STOPPED else wire.Phase.FAILED
