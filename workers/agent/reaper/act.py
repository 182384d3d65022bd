"""Ending one thing. Each says whether it is gone; safe to repeat. Blocks."""

import contextlib
import os
import select
import shutil
import signal
from pathlib import Path

from workers.agent import caches, kin, remains, walls
from workers.agent.places import Places
from workers.agent.reaper.observe import Containers
from workers.agent.reaper.things import Kind, Thing
from workers.agent.weights.cache import Cache

DIE_WITHIN_S = 10.0  # of SIGKILL; longer only in the kernel's hands


def end(thing: Thing, places: Places, containers: Containers | None) -> bool:
    """Raises OSError."""
    match thing.kind:
        case Kind.PROCESS | Kind.STRANGER:
            return _kill(thing)
        case Kind.CONTAINER:
            assert containers is not None
            containers.remove(thing.name)
            return True
        case Kind.FOLDER:
            shutil.rmtree(thing.name, ignore_errors=True)
            return not Path(thing.name).exists()
        case Kind.CACHE:
            caches.give_back(Path(thing.name))
            return True
        case Kind.MEMORY:
            return _erase(thing)
        case Kind.CLAIM:
            walls.release_uid(int(thing.name), Path(str(thing.detail["holder"])))
            return True
        case Kind.WEIGHTS:
            return Cache(places.weights).discard_stale(Path(thing.name))
        case Kind.HOLD:
            Cache(places.weights).release(thing.name)
            return True


def _kill(thing: Thing) -> bool:
    process = kin.read(thing.pid)
    if process is None or process.start_time != thing.start_time:
        return True
    with contextlib.suppress(ProcessLookupError):
        handle = os.pidfd_open(thing.pid)
        try:
            kin.send(process, signal.SIGKILL)
            waiting = select.poll()
            waiting.register(handle, select.POLLIN)
            waiting.poll(DIE_WITHIN_S * 1000)
        finally:
            os.close(handle)
    now = kin.read(thing.pid)
    return now is None or now.start_time != thing.start_time


def _erase(thing: Thing) -> bool:
    what, _, name = thing.name.partition(" ")
    uid, holder = int(thing.detail["uid"]), thing.detail.get("holder")
    # Under the lock that gives uids out, so that it is nobody's new file.
    with walls.unheld(uid, Path(str(holder)) if holder else None) as free:
        return free and remains.erase(remains.Remain(what, name, uid))
