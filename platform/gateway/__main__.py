"""`python -m gateway`: serve until SIGTERM, then drain; serve on with what is new after SIGHUP."""

import asyncio
import gc
import logging
import os
import signal
import ssl
import sys
from dataclasses import replace

import uvloop

from gateway import config as configuration
from gateway import crowd, disk, host, inherited, server, table, tls
from gateway.activity import Activity
from gateway.books import Books
from gateway.config import Config, ConfigError
from gateway.epochs import Epochs
from gateway.gate import Gate
from gateway.host import Host
from gateway.inherited import Inherited
from gateway.keeper import Keeper
from gateway.leases import Leases
from gateway.limits import Limits
from gateway.master import Master
from gateway.routed import Routed
from gateway.shipping import Shipper
from gateway.spool import Spool
from gateway.stops import Stops
from gateway.store import Store
from gateway.table import Table
from gateway.trials import Teller
from gateway.uses import Uses

log = logging.getLogger("gateway")

_TABLE = "counters"


async def run(
    config: Config, limits: Limits, ours: Inherited, secure: ssl.SSLContext | None
) -> None:
    """One worker's life. Raises OSError when the folder or a port cannot be had."""
    loop = asyncio.get_running_loop()
    stopping, leaving = asyncio.Event(), asyncio.Event()

    def stop() -> None:
        stopping.set()
        leaving.set()

    loop.add_signal_handler(signal.SIGTERM, stop)
    loop.add_signal_handler(signal.SIGHUP, leaving.set)  # others serve in our place
    limits = replace(limits, connections=crowd.room(limits.connections))
    disk.private_folder(config.folder)
    spool_folder = config.folder / "spool"
    store = Store(config.database_url)
    keeper, spool = Keeper(config), Spool(spool_folder)
    counters = Table(ours.memory[_TABLE], spool.name)
    mine = Host.of(ours.memory)
    activity = Activity(store, config.gateway_id, config.activity_every_s, mine.loads.column)
    books = Books(counters)
    leases = Leases(books, store, config.gateway_id, config.hosts)
    gate = Gate(counters, leases, books, config.hosts)
    keeper.listeners["stoa_leases"] = leases.wanted
    keeper.watchers.append(lambda old, new: leases.edited(old.budgets.by_id, new.budgets.by_id))
    uses = Uses(store, config.gateway_id, config.activity_every_s)
    stops = Stops(store, config.gateway_id)
    keeper.listeners["stoa_runs"] = stops.heard
    keeper.watchers.append(stops.read)
    epochs = Epochs(config.folder, spool_folder, config.gateway_id)
    shipper = Shipper(spool, store, spool_folder, config.gateway_id, gate.bury, epochs)
    shared = server.context(config, limits, keeper, spool, activity, uses, gate, stops, mine)
    routed = Routed(store, shared.metrics)
    keeper.watchers.append(routed.changed)
    serving = server.Server(shared, ours, secure)
    teller = Teller(shared.trials, store, config.gateway_id, config.activity_every_s)
    for part in (spool, shipper, activity, uses, teller, routed, leases, stops, keeper):
        await part.start()
    try:
        await serving.start()
        log.info("serving region %s on %s:%d", config.region, config.host, serving.port)
        await leaving.wait()
        log.info("draining")
    finally:
        # In this order: what still runs is settled, spooled, shipped.
        await serving.drain(hurry=stopping)
        await stops.stop_telling()
        for ending in (leases, keeper, activity, uses, teller, routed, shipper, spool, store):
            await ending.stop()
        counters.release(spool.name)
        counters.close()
        mine.close()


# A thread that has synced the disk wants the interpreter for a moment. Each system call of the loop
# that lets go of it wakes that thread in vain, until this time is over and the loop must wait.
_SWITCH_S = 0.0002


def _worker(config: Config, limits: Limits, ours: Inherited, secure: ssl.SSLContext | None) -> int:
    try:
        # What is here stays; a request leaves no cycles behind, so that looking for some after
        # every 700 objects would cost a tenth of it.
        gc.collect()
        gc.freeze()
        gc.set_threshold(20_000, 20, 20)
        sys.setswitchinterval(_SWITCH_S)
        uvloop.run(run(config, limits, ours, secure))
    except OSError as error:
        print(f"gateway: {config.host}:{config.port} or {config.folder}: {error}", file=sys.stderr)
        return 1
    return 0


def _prepare(config: Config, memory: dict[str, int]) -> None:
    """Before any worker counts or writes: whose counters these are. Raises OSError."""
    disk.private_folder(config.folder)
    for each in memory.values():
        table.prepare(each)
    epochs = Epochs(config.folder, config.folder / "spool", config.gateway_id)
    epochs.begin(table.epoch(memory[_TABLE]))


def main() -> None:
    state_at = os.environ.pop(inherited.STATE, "")
    try:
        environ = configuration.environment()
        config = Config.from_env(environ)
        limits = Limits.of(config, environ)
        secure = tls.for_clients(config)
    except ConfigError as error:
        sys.exit(f"gateway: {error}")
    if "--check" in sys.argv:
        return
    logging.basicConfig(
        level=config.log_level, format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
    disk.forbid_dumps()
    state = inherited.load(int(state_at)) if state_at else None
    sizes = {_TABLE: table.SIZE, **host.SIZES}

    def serve(ours: Inherited) -> int:
        return _worker(config, limits, ours, secure)

    def ended(pid: int) -> None:
        host.ended(master.memory, pid)

    try:
        master = Master(config, serve, sizes, state, ended)
    except OSError as error:
        sys.exit(f"gateway: {config.host}:{config.port}: {error}")
    try:
        _prepare(config, master.memory)
    except OSError as error:
        if state is None:
            sys.exit(f"gateway: {config.folder}: {error}")
        log.error("%s: %s", config.folder, error)  # others serve: no reason to end them
    sys.exit(master.run())


if __name__ == "__main__":
    main()
