"""What a person or a supervisor asks of the agent. Each returns an exit status."""

import asyncio
import logging
import signal
import time
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import httpx
import uvloop

from controlplane.fleet import wire
from workers.agent import client, credential, processes, records, sharing, tls
from workers.agent.client import Backoff, Client, Gone, Refused, Rejected, Unavailable
from workers.agent.loop import STOP_DRAIN_S, Agent
from workers.agent.records import Store
from workers.agent.replicas import Replicas
from workers.agent.runner import Runner
from workers.agent.settings import VERSION, Settings
from workers.agent.updating import Restart

log = logging.getLogger("stoa.agent")

# Exit statuses besides 0 and 1 (anything else) and 2 (wrong usage).
REFUSED = 3  # the credential or token is no good: enrol again
GONE = 4  # the operator removed this node
UNFIT = 6  # what doctor finds forbids joining
LOCKED = 5  # another agent runs on the same directory
RESTART = 75  # another release is to be tried: launch.py starts it

ENROL_AGAIN = (
    "enrol again: get a join command for this node from the operator of {url}"
    " (`stoa enrollment_token --pool POOL --node NODE`)"
)


def make_directory(settings: Settings) -> None:
    """The agent's own directory, closed to everybody else."""
    settings.directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    settings.directory.chmod(0o700)


def join(settings: Settings) -> int:
    """Exchange the token for a credential. Raises CallError, CredentialError, Locked."""
    make_directory(settings)
    with records.lock(settings.directory):
        identity = asyncio.run(_enroll(settings, patient=False))
    held = identity.credential
    print(f"joined {held.region}, pool {held.pool}, as {held.node_id}")
    print(f"now run: STOA_AGENT_DIR={settings.directory} python -m workers.agent run")
    return 0


def joined(settings: Settings) -> int:
    """0 where this machine holds a certificate that is good yet. Raises CredentialError."""
    identity = credential.load(settings.directory)
    return int(identity is None or identity.expired(credential.now_utc()))


def run(settings: Settings, *, runner: Runner, survey: Callable[[], wire.Inventory]) -> int:
    """Serve until SIGTERM or SIGINT. Raises CallError for an unusable address, and Locked."""
    make_directory(settings)
    mine = processes.mark(settings.directory)
    with records.lock(settings.directory), sharing.using(settings.cache, mine):
        return uvloop.run(_run(settings, runner, survey))


def stop_all(settings: Settings, *, runner: Runner) -> int:
    """Stop every engine that an agent of this directory left, recorded or not."""
    make_directory(settings)
    with records.lock(settings.directory):
        stopped = asyncio.run(_stop_recorded(settings, runner))
        # Whatever no record knows: standby engines, and starts that were never written down.
        reaped = processes.reap(settings.directory, set())
    print(f"stopped {stopped} engines; ended {len(reaped)} other processes")
    return 0


async def _stop_recorded(settings: Settings, runner: Runner) -> int:
    replicas = Replicas(
        settings.directory,
        store=Store(settings.directory),
        runner=runner,
        clock=time.monotonic,
        changed=lambda: None,
        address=lambda running: f"unix:{running.socket}",
        missing_walls=dict,
    )
    await replicas.adopt(keep_standbys=False)
    stopping = [replica for replica in replicas if not replica.ended]
    await replicas.stop_all(STOP_DRAIN_S)
    return len(stopping)


# --- run -----------------------------------------------------------------------------------


async def _run(settings: Settings, runner: Runner, survey: Callable[[], wire.Inventory]) -> int:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    fresh = False  # a token serves once: a credential made with it is not made again
    identity = credential.load(settings.directory)
    while True:
        if identity is None or (identity.expired(credential.now_utc()) and settings.token):
            identity, fresh = await _unless(stop, _enroll(settings, patient=True)), True
            if identity is None:
                return 0
        url = settings.url or identity.url
        ended = await _serve(settings, url, identity, runner, survey, stop)
        if ended == REFUSED and settings.token and not fresh:
            log.info("trying the enrolment token")
            identity = None
            continue
        if ended == REFUSED:
            log.error(ENROL_AGAIN.format(url=url))
        return ended


async def _serve(
    settings: Settings,
    url: str,
    identity: credential.Identity,
    runner: Runner,
    survey: Callable[[], wire.Inventory],
    stop: asyncio.Event,
) -> int:
    status = 0
    async with Client(url, identity) as calls:
        agent = Agent(settings, calls, identity, runner=runner, survey=survey)
        try:
            await agent.run(stop)
        except* Refused as refused:
            log.error("the control plane refuses this node's credential: %s", _first(refused))
            status = REFUSED
        except* Gone as gone:
            log.error("%s", _first(gone))
            status = GONE
        except* Restart:
            status = RESTART
    return status


async def _enroll(settings: Settings, *, patient: bool) -> credential.Identity:
    """Join with the token; `patient`: for as long as it takes the control plane to come up."""
    if not settings.url:
        raise Refused("this node has not joined: set STOA_CONTROLPLANE_URL")
    if not settings.token:
        raise Refused("this node has not joined: " + ENROL_AGAIN.format(url=settings.url))
    key = credential.pending_key(settings.directory)
    message = wire.EnrollRequest(
        token=settings.token,
        name=settings.name,
        csr_pem=credential.request(key, settings.name),
        agent_version=VERSION,
    )
    answer = await _patiently(lambda: _ask(settings, message), patient)
    return credential.accept(settings.directory, url=settings.url, key=key, credential=answer)


async def _ask(settings: Settings, message: wire.EnrollRequest) -> wire.Credential:
    """Raises Unavailable, Refused."""
    authority_pem = ""
    try:
        if settings.url.startswith("https://"):
            if not settings.pin:
                raise Refused("set STOA_CONTROLPLANE_PIN: the join command has it")
            authority_pem = await tls.fetch_authority(client.checked(settings.url), settings.pin)
        async with Client(settings.url, authority_pem=authority_pem) as calls:
            return await calls.enroll(message)
    except httpx.HTTPError as error:
        raise Unavailable(f"no answer: {error or type(error).__name__}") from error
    except tls.PinError as error:
        raise Refused(str(error)) from error
    except (Refused, Rejected) as error:
        raise Refused(f"this token does not let the node join: {error}") from error


async def _patiently(
    ask: Callable[[], Awaitable[wire.Credential]], patient: bool
) -> wire.Credential:
    backoff = Backoff(cap_s=5.0)
    while True:
        try:
            return await ask()
        except Unavailable as error:
            if not patient:
                raise
            log.warning("cannot join yet: %s", error)
            await asyncio.sleep(backoff.next())


async def _unless(
    stop: asyncio.Event, work: Coroutine[object, object, credential.Identity]
) -> credential.Identity | None:
    """The outcome of `work`, or None when `stop` comes first."""
    working = asyncio.create_task(work)
    stopping = asyncio.create_task(stop.wait())
    waiting: list[asyncio.Future[Any]] = [working, stopping]
    try:
        await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        return working.result() if working.done() else None
    finally:
        working.cancel()
        stopping.cancel()


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    error = group.exceptions[0]
    return _first(error) if isinstance(error, BaseExceptionGroup) else error
