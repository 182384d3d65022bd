"""The agent's one process: it asks for the wish list, makes it so, and says how it is."""

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import msgspec

from controlplane.fleet import wire
from workers.agent import credential, inventory, peers, processes, threads
from workers.agent.client import Backoff, Client, Gone, Rejected, Unavailable
from workers.agent.door import ControlPlaneDoor
from workers.agent.engines import Running
from workers.agent.erasing import Eraser
from workers.agent.events import Events
from workers.agent.farewell import Leave, leave
from workers.agent.gang import Gangs, Stream
from workers.agent.health.clock import Clock
from workers.agent.health.examination import Examination
from workers.agent.logs import Follower, prune
from workers.agent.meter import Journal
from workers.agent.metering import Metering
from workers.agent.pulls import Pulls
from workers.agent.reaper.reaping import Reaping
from workers.agent.records import Store
from workers.agent.relay import Relay
from workers.agent.replica import COMING, Replica
from workers.agent.replicas import Replicas
from workers.agent.runner import Runner
from workers.agent.settings import VERSION, Settings
from workers.agent.updating import Updater

log = logging.getLogger("stoa.agent")

POLL_WAIT_S = 20.0  # how long the control plane may keep a poll open
POLL_SPACING_S = 0.5
WHOLE_EVERY_S = 120.0  # how long a wish list is taken for the one that it was
LOGS_EVERY_S = 1.0
LOG_CHUNKS = 25  # of one replica before it is another's turn
INVENTORY_EVERY_S = 60.0
EXAMINE_EVERY_S = 15.0
TEND_EVERY_S = 2.0
BIND_EVERY_S = 0.2
RENEWAL_CHECK_S = 60.0
STOP_DRAIN_S = 2.0  # on the way out


class Agent:
    """One run of the agent. `survey` gives the inventory (blocking)."""

    def __init__(
        self,
        settings: Settings,
        client: Client,
        identity: credential.Identity,
        *,
        runner: Runner,
        survey: Callable[[], wire.Inventory],
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._settings, self._client, self._survey = settings, client, survey
        self._runner, self._clock, self._wall = runner, clock, wall
        self._their_clock = Clock()
        self._examination = Examination(settings, self._their_clock)
        self._findings: list[wire.Finding] = []
        self._store = Store(settings.directory)
        self._events = Events(settings.directory)
        journal = Journal(
            settings.directory,
            machine_boot=self._store.machine_boot,
            identity=lambda: self._identity,
            clock=clock,
            wall=wall,
        )
        self._metering = Metering(journal, self._store.save)
        self._reaping = Reaping(settings, self._events)
        self._changed = asyncio.Event()
        self._renew = asyncio.Event()
        self._inventory: wire.Inventory | None = None
        self._inventory_sent: wire.Inventory | None = None
        self._seq = 0
        self._report_every_s = 1.0
        self._whole_at = 0.0
        self._followers: dict[str, Follower] = {}
        self._identity = identity
        self._relay = Relay(identity, self._socket, self._admit) if settings.relay else None
        self._gangs = Gangs(self._relay.call) if self._relay else None
        self._relay_address = ""
        runner.connect(ControlPlaneDoor(client))
        self._pulls = Pulls(runner, self._changed.set)
        self._updater = Updater(settings, client, self._changed.set)
        self.replicas = Replicas(
            settings.directory,
            store=self._store,
            runner=runner,
            clock=clock,
            changed=self._changed.set,
            address=self._address,
            missing_walls=self._missing_walls,
            devices=self._reaping.devices,
            ended=self._reaping.reaper.killed,
        )

    async def run(self, stop: asyncio.Event) -> None:
        """Until `stop`. Raises (in a group) Refused, Gone, Restart as the control plane says."""
        try:
            await self._start_relay()
            await self.replicas.adopt()
            await threads.call(self._reaping.first, self.replicas)
            self._inventory = await self._take_stock()
            async with asyncio.TaskGroup() as group:
                loops = [
                    group.create_task(self._forever(step))
                    for step in (
                        self._desire,
                        self._report,
                        self._ship,
                        self._look,
                        self._examine,
                        self._reap,
                        self._tend,
                        self._keep,
                        self._bind,
                        self._updater.step,
                    )
                ]
                await stop.wait()
                for task in loops:
                    task.cancel()
        except* Leave as left:
            await self._farewell(left.exceptions[0])
        except* Gone:
            log.warning("this node was removed: stopping its engines")
            await self.replicas.stop_all(STOP_DRAIN_S)
            raise
        finally:
            await self._leave(stop)

    async def _farewell(self, left: BaseException) -> None:
        """This node leaves the fleet: nothing of it stays. Raises Gone."""
        assert isinstance(left, Leave)
        log.warning("this node leaves the fleet: stopping its engines, erasing what is here")
        self._pulls.stop()
        await self.replicas.stop_all(STOP_DRAIN_S)
        await self._last_word()
        await threads.finish(processes.reap, self._settings.directory, set())
        await leave(self._client, Eraser(self._settings), left.wish)
        raise Gone("this node has left the fleet: what it had is erased")

    async def _leave(self, stop: asyncio.Event) -> None:
        if stop.is_set() and self._settings.stop_engines:
            await self.replicas.stop_all(STOP_DRAIN_S)
            await threads.finish(processes.reap, self._settings.directory, set())  # standbys
            await self._last_word()  # so that nobody waits for a lease to end
        self._pulls.stop()
        await self.replicas.leave()
        self._examination.close()
        self._reaping.close()
        if self._gangs is not None:
            await self._gangs.close()
        if self._relay is not None:
            await self._relay.stop()

    async def _last_word(self) -> None:
        with contextlib.suppress(Exception):
            async with asyncio.timeout(2):
                await self._send_report()

    async def _forever(self, step: Callable[[], Awaitable[None]]) -> None:
        """Repeat `step`, which waits by itself; while the control plane is away, ever slower."""
        backoff = Backoff(cap_s=2 * self._report_every_s)
        while True:
            try:
                await step()
                backoff.reset()
            except (Unavailable, Rejected, OSError) as error:  # OSError: a full disk, say
                if backoff.failures in (0, 5) or backoff.failures % 50 == 0:
                    log.warning("%s: %s", step.__name__.strip("_"), error)
                backoff.cap_s = 2 * self._report_every_s
                await asyncio.sleep(backoff.next())

    # --- the wish list -------------------------------------------------------------------

    async def _desire(self) -> None:
        # Two lists may have one version, where the control plane lost its memory.
        asked_at = self._clock()
        have = self.replicas.version if asked_at < self._whole_at else 0
        desired = await self._client.desired(have, POLL_WAIT_S)
        if desired.version < self.replicas.version:
            # Late, or the control plane came back from a backup: what it says now, counts.
            desired = await self._client.desired(0, 0)
        self._report_every_s = desired.report_every_s
        if desired.erase is not None:
            raise Leave(desired.erase)
        if desired.replicas is not None:
            self._whole_at = asked_at + WHOLE_EVERY_S
            self.replicas.apply(desired)
            self._pulls.apply(desired.pulls)
            self._updater.wish(desired.agent)
            self._revoke(desired.revoked)
        if desired.version == have and self._clock() - asked_at < POLL_SPACING_S:
            await asyncio.sleep(POLL_SPACING_S)  # a proxy that does not let polls wait

    def _revoke(self, revoked: list[wire.Revoked]) -> None:
        if self._relay is not None:
            self._relay.revoke(revoked)
            peers.keep(self._settings.directory, revoked)

    # --- reports -------------------------------------------------------------------------

    async def _report(self) -> None:
        self._changed.clear()
        try:
            reply = await self._send_report()
        except BaseException:
            self._changed.set()
            raise
        if reply.renew:
            self._renew.set()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._report_every_s):
                await self._changed.wait()

    async def _send_report(self) -> wire.ReportReply:
        self._seq += 1
        found = self._inventory and self._reaping.usable(self._inventory)
        found = found and msgspec.structs.replace(found, agent=self._updater.state)
        news = found is not None and not inventory.same(self._inventory_sent, found)
        events, models = self._events.waiting(), self._runner.model_facts.waiting()
        # Before the levels: no count in them is behind what is proved.
        await self._metering.keep(self.replicas.records())
        meter = await self._metering.waiting()
        sent = self._wall()
        reply = await self._client.report(
            wire.Report(
                boot_id=self._store.agent_boot,
                seq=self._seq,
                agent_version=VERSION,
                desired_version=self.replicas.version,
                replicas=self.replicas.reports(),
                pulls=self._pulls.reports(),
                findings=[*self._reaping.findings(), *self._findings],
                events=events,
                models=models,
                meter=[batch for _, batch in meter],
                inventory=found if news else None,
            )
        )
        self._their_clock.heard(sent, reply.at, self._wall())
        self._events.taken(events)
        self._runner.model_facts.taken(models)
        await self._metering.taken(meter)
        await self._updater.heard()
        if news:
            self._inventory_sent = found
        return reply

    async def _look(self) -> None:
        """Take stock again: a GPU may have fallen off, an engine environment come ready."""
        await asyncio.sleep(INVENTORY_EVERY_S)
        self._inventory = await self._take_stock()
        if not inventory.same(self._inventory_sent, self._inventory):
            self._changed.set()

    async def _examine(self) -> None:
        """Look what is wrong with this node; news are reported at once."""
        found = await threads.call(self._examination.findings)
        if found != self._findings:
            self._findings = found
            self._changed.set()
        await asyncio.sleep(EXAMINE_EVERY_S)

    async def _take_stock(self) -> wire.Inventory:
        found = await threads.call(self._survey)
        return msgspec.structs.replace(found, relay=self._relay_address.removeprefix("relay:"))

    async def _reap(self) -> None:
        """End what is nobody's, and see which devices are clean."""
        await asyncio.sleep(self._settings.reap_every_s)
        await threads.call(self._reaping.look, self.replicas)
        if self._events.waiting():
            self._changed.set()

    async def _tend(self) -> None:
        """Warm a standby up, while no engine that somebody waits for needs the processor."""
        await asyncio.sleep(TEND_EVERY_S)
        if not any(replica.record.phase in COMING for replica in self.replicas):
            await threads.call(self._runner.tend)

    # --- logs ----------------------------------------------------------------------------

    async def _ship(self) -> None:
        for replica in self.replicas:
            over = replica.ended
            await self._ship_one(replica, over)
            if over and replica.unlisted and await self._metering.keep(self.replicas.records()):
                self._followers.pop(replica.id, None)
                _cursor(self._settings.directory, replica.id).unlink(missing_ok=True)
                self.replicas.forget(replica)
                prune(self._settings.directory / "logs")
        await asyncio.sleep(min(LOGS_EVERY_S, self._report_every_s))

    async def _ship_one(self, replica: Replica, over: bool) -> None:
        running = replica.record.running
        if running is None:
            return
        follower = self._followers.get(replica.id)
        if follower is None:
            follower = Follower(replica.id, _cursor(self._settings.directory, replica.id))
            self._followers[replica.id] = follower
        for _ in range(LOG_CHUNKS):
            chunk = follower.read(Path(running.log), final=over)
            if chunk is None:
                return
            try:
                await self._client.logs(chunk)
            except Rejected as error:  # a replica that nobody knows any more
                log.info("%s: log lines refused: %s", replica.id, error)
            follower.arrived()

    # --- the credential ------------------------------------------------------------------

    async def _keep(self) -> None:
        """Renew the certificate in the last third of its life, or when told to."""
        due_s = self._identity.renewal_in_s(credential.now_utc())
        if due_s > 0 and not self._renew.is_set():
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(min(due_s, RENEWAL_CHECK_S)):
                    await self._renew.wait()
            return
        directory = self._settings.directory
        key = credential.pending_key(directory)
        csr = credential.request(key, self._settings.name)
        answer = await self._client.renew(wire.RenewRequest(csr_pem=csr))
        try:
            self._identity = credential.accept(
                directory, url=self._identity.url, key=key, credential=answer
            )
        except credential.CredentialError as error:
            raise Unavailable(str(error)) from error
        self._client.use(self._identity)
        if self._relay is not None:
            self._relay.use(self._identity)
        self._renew.clear()
        log.info("certificate renewed until %s", self._identity.expires_at.isoformat())

    # --- where engines are reached -------------------------------------------------------

    async def _start_relay(self) -> None:
        if self._relay is not None and self._settings.relay is not None:
            host, port = self._settings.relay
            # What was revoked stays so, though the control plane be away.
            self._relay.revoke(peers.kept(self._settings.directory))
            port = await self._relay.start(host, port)
            self._relay_address = f"relay:{host}:{port}"
            log.info("relay on %s port %s", host, port)

    async def _bind(self) -> None:
        """Give each gang's member that runs here its network."""
        if self._gangs is None:
            await asyncio.sleep(INVENTORY_EVERY_S)
            return
        await self._gangs.follow(self.replicas.gangs())
        await asyncio.sleep(BIND_EVERY_S)

    async def _admit(self, name: str, node_id: str, stream: Stream) -> None:
        if self._gangs is not None:
            await self._gangs.admit(name, node_id, stream)

    def _address(self, running: Running) -> str:
        return self._relay_address or f"unix:{running.socket}"

    def _socket(self, replica_id: str) -> str | None:
        running = self.replicas.running(replica_id)
        return None if running is None else running.socket

    def _missing_walls(self) -> dict[str, str]:
        """Walls whose lack forbids two organizations on one node.

        A uid of its own keeps an engine out of another's files; a network of its own or a
        socket without any TCP port keeps it from talking to it.
        """
        found = self._inventory
        if found is None:
            return {"unknown": "this node has not been surveyed yet"}
        missing = dict(found.missing_walls)
        apart = wire.Wall.NETWORK in found.walls or wire.Wall.SOCKET in found.walls
        needed = {wire.Wall.UID: wire.Wall.UID not in found.walls, wire.Wall.NETWORK: not apart}
        return {
            wall.value: missing.get(wall.value, "not there")
            for wall, lacks in needed.items()
            if lacks
        }


def _cursor(directory: Path, replica_id: str) -> Path:
    return directory / "cursors" / f"{replica_id}.json"
