"""`python -m gateway`: serve until SIGTERM, then drain."""

import asyncio
import logging
import signal
import sys

import uvloop

from gateway import disk, server
from gateway.activity import Activity
from gateway.config import Config, ConfigError
from gateway.keeper import Keeper
from gateway.limits import Limits
from gateway.shipping import Shipper
from gateway.spool import Spool
from gateway.store import Store

log = logging.getLogger("gateway")


async def run(config: Config, limits: Limits) -> None:
    """Raises OSError when the folder or a port cannot be had."""
    stopping = asyncio.Event()
    for signum in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(signum, stopping.set)
    disk.private_folder(config.folder)
    spool_folder = config.folder / "spool"
    store = Store(config.database_url)
    keeper, spool = Keeper(config), Spool(spool_folder)
    activity = Activity(store, config.gateway_id, config.activity_every_s)
    shipper = Shipper(spool, store, spool_folder, config.gateway_id)
    serving = server.Server(server.context(config, limits, keeper, spool, activity))
    await spool.start()
    await shipper.start()
    await activity.start()
    await keeper.start()
    try:
        await serving.start()
        log.info("serving region %s on %s:%d", config.region, config.host, serving.port)
        await stopping.wait()
        log.info("draining")
    finally:
        # In this order: what still runs is settled, spooled, shipped.
        await serving.drain()
        await keeper.stop()
        await activity.stop()
        await shipper.stop()
        await spool.stop()
        await store.stop()


def main() -> None:
    try:
        config = Config.from_env()
        limits = Limits.of(config)
    except ConfigError as error:
        sys.exit(f"gateway: {error}")
    logging.basicConfig(
        level=config.log_level, format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
    try:
        uvloop.run(run(config, limits))
    except OSError as error:
        sys.exit(f"gateway: {config.host}:{config.port} or {config.folder}: {error}")


if __name__ == "__main__":
    main()
