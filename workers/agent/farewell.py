"""The end of an agent whose node leaves the fleet: erase, say so, erase the credential, say so."""

import asyncio
import contextlib
import logging

from controlplane.fleet import wire
from workers.agent import threads
from workers.agent.client import Backoff, CallError, Client, Gone, Refused
from workers.agent.erasing import Eraser, complete

log = logging.getLogger("stoa.agent")

AGAIN_CAP_S = 30.0
LAST_WORD_S = 20.0  # that is not waited for: the certificate is revoked anyway


class Leave(Exception):
    """The control plane wants this node erased; nothing else is to be done."""

    def __init__(self, wish: wire.Erase) -> None:
        super().__init__(wish.id)
        self.wish = wish


async def leave(client: Client, eraser: Eraser, wish: wire.Erase) -> None:
    """Until the credential is gone. Nothing of the agent may run any more."""
    backoff = Backoff(cap_s=AGAIN_CAP_S)
    while True:
        erased = await threads.finish(eraser.erase, wish.id)
        try:
            await client.erased(erased)
            if complete(erased):
                break
        except (Gone, Refused):  # nobody waits for it any more: it is to be erased all the same
            if complete(erased):
                break
        except CallError as error:
            log.warning("cannot say that this node is erased: %s", error)
        await asyncio.sleep(backoff.next())
    last = await threads.finish(eraser.erase_credential, wish.id)
    log.warning("this node was erased, its credential last")
    with contextlib.suppress(TimeoutError, Gone, Refused):
        async with asyncio.timeout(LAST_WORD_S):
            await _say(client, last)
    await threads.finish(eraser.forget)


async def _say(client: Client, erased: wire.Erased) -> None:
    backoff = Backoff(cap_s=5.0)
    while True:
        try:
            return await client.erased(erased)
        except (Gone, Refused):
            raise
        except CallError:
            await asyncio.sleep(backoff.next())
