"""Keeps a gateway's directory current, and a copy of it on disk.

Whenever PostgreSQL says that something changed, that is read; all of it is read anew over each
new connection and now and then. The copy is for a start while PostgreSQL is away.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable

from gateway import reading, store, tasks
from gateway.config import Config
from gateway.directory import Directory
from gateway.saved import RefusedError, Saved

log = logging.getLogger(__name__)

_CHANNEL = "stoa_directory"
_CONTACT_S = 1.0  # between two signs of life of PostgreSQL; also finds a lost notification
_READ_ANYWAY_S = 60.0  # all of it, for what changes without a notification …
_READ_ANYWAY_SHARE = 0.01  # … but not for more than this share of the time
_COALESCE_S = 0.02  # notifications that come this close share one reading
_COALESCE_MAX_S = 0.4  # with a directory that takes long to read, we read at most half the time
_START_WAIT_S = 3.0  # for PostgreSQL, before the copy on disk is tried
_READ_TIMEOUT_S = 30.0
_SAVE_SHARE = 0.25  # of the time, with a directory that takes long to save …
_SAVE_WAIT_S = 1.0  # … but no longer than this in between
_TOUCH_S = 15.0  # how exact the age of the copy on disk is, at most


class Keeper:
    """Keeps `current` current. Create and use it in one event loop."""

    def __init__(self, config: Config) -> None:
        self.current = Directory(config.pepper, {}, (), generation=0, read_at=0.0)
        self.contact_at = 0.0  # Unix seconds of the last answer of PostgreSQL; 0: never
        # Who else wants to know: by channel of PostgreSQL's, and of each new directory.
        self.listeners: dict[str, Callable[[str], None]] = {}
        self.watchers: list[Callable[[Directory, Directory], None]] = []
        self._config = config
        self._saved = Saved(config.folder, config.pepper, config.directory_max_age_s)
        self._touch_s = min(_TOUCH_S, config.directory_max_age_s / 20)
        self._touched_at = 0.0
        self._contact_clock = 0.0  # the same moment as contact_at, on the monotonic clock
        self._floor = 0
        self._read_s = 0.0  # how long the last reading took
        self._whole_at = self._whole_s = 0.0  # when all was read (monotonic), and how long it took
        self._unexplained = -1  # a generation that no change was found for
        self._next: asyncio.Future[Directory] | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._tried = asyncio.Event()  # PostgreSQL has been asked once
        self._live = False  # and has answered
        self._to_save = asyncio.Event()
        self._saved_directory: Directory | None = None

    def stale(self, now: float) -> bool:
        """Whether PostgreSQL has been silent for too long to serve (`now` in Unix seconds)."""
        max_age_s = self._config.directory_max_age_s
        if now - self.contact_at > max_age_s:
            return True
        # A clock that was set back must not stretch the age.
        return self._contact_clock > 0 and time.monotonic() - self._contact_clock > max_age_s

    async def changed(self) -> Directory:
        """The next snapshot, once it is current."""
        if self._next is None:
            self._next = asyncio.get_running_loop().create_future()
        return await asyncio.shield(self._next)

    async def start(self) -> None:
        """Return with PostgreSQL's directory, or the one on disk, or (logged) an empty one."""
        highest: int | None = await asyncio.to_thread(self._saved.highest)
        self._floor = highest or 0
        self._tasks = [asyncio.create_task(self._follow()), asyncio.create_task(self._save())]
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_START_WAIT_S):
                await self._tried.wait()
        if not self._live:
            await self._load()

    async def stop(self) -> None:
        await tasks.end(*self._tasks)
        self._tasks = []
        if self._live:
            with contextlib.suppress(OSError):
                await self._save_once()
        self._saved.close()

    # --- PostgreSQL -------------------------------------------------------------------
    async def _follow(self) -> None:
        backoff = store.Backoff()
        away = False
        while True:
            try:
                connection = await store.connect(self._config.database_url, "directory")
                try:
                    for channel in (_CHANNEL, *self.listeners):
                        await connection.execute(f"LISTEN {channel}")
                    await self._read(connection, whole=True)
                    if away:
                        log.info("PostgreSQL is back: generation %d", self.current.generation)
                    away = False
                    backoff.reset()
                    await self._listen(connection)
                finally:
                    await connection.close()
            except Exception as error:  # whatever it is, the next connection may do better
                if not away:
                    log.warning("no directory from PostgreSQL: %s", _line(error))
                away = True
                self._tried.set()
            await asyncio.sleep(backoff.next())

    async def _listen(self, connection: store.Connection) -> None:
        while True:
            if await self._notified(connection, _CONTACT_S, stop_after=1):
                wait_s = min(max(_COALESCE_S, self._read_s), _COALESCE_MAX_S)
                await self._notified(connection, wait_s)
                await self._read(connection)
                continue
            with store.deadline(connection, store.QUERY_TIMEOUT_S):
                generation = await reading.generation(connection)
            self._contact()
            wait_s = max(_READ_ANYWAY_S, self._whole_s / _READ_ANYWAY_SHARE)
            overdue = time.monotonic() - self._whole_at > wait_s
            if generation != self.current.generation or overdue:
                # Once it may be of a change that is being committed; twice, nobody noted it.
                unexplained = generation == self._unexplained
                await self._read(connection, whole=overdue or unexplained)
                self._unexplained = generation
            elif self.contact_at - self._touched_at > self._touch_s:
                self._to_save.set()

    async def _read(self, connection: store.Connection, *, whole: bool = False) -> None:
        began, config = time.monotonic(), self._config
        with store.deadline(connection, _READ_TIMEOUT_S):
            directory = await reading.read(
                connection, config.region, config.pepper, time.time(), self.current, whole=whole
            )
        self._read_s = time.monotonic() - began
        if whole:
            self._whole_at, self._whole_s = began, self._read_s
        if directory.generation < max(self._floor, self.current.generation):
            # The database is the authority: a restored backup brings its older counter along.
            log.warning(
                "PostgreSQL's directory went back to generation %d; %d was seen here before",
                directory.generation,
                max(self._floor, self.current.generation),
            )
        self._floor = 0
        self._contact()
        self._publish(directory)
        self._live = True
        self._tried.set()
        self._to_save.set()

    async def _notified(
        self, connection: store.Connection, timeout_s: float, stop_after: int | None = None
    ) -> bool:
        """Whether the directory has changed; other channels are told to their listeners."""
        found = False
        async for notice in connection.notifies(timeout=timeout_s, stop_after=stop_after):
            listener = self.listeners.get(notice.channel)
            if listener is None:
                found = True
            else:
                listener(notice.payload)
        return found

    def _contact(self) -> None:
        self.contact_at = time.time()
        self._contact_clock = time.monotonic()

    def _publish(self, directory: Directory) -> None:
        before, self.current = self.current, directory
        for watcher in self.watchers:
            watcher(before, directory)
        if self._next is not None:
            waiting, self._next = self._next, None
            waiting.set_result(directory)

    # --- Disk -------------------------------------------------------------------------
    async def _load(self) -> None:
        config = self._config
        try:
            loaded = await asyncio.to_thread(self._saved.load, time.time())
            directory = Directory.decode(
                loaded.payload,
                config.pepper,
                config.region,
                generation=loaded.generation,
                read_at=loaded.read_at,
            )
        except (RefusedError, ValueError) as error:
            if not self._live:
                log.error("PostgreSQL is away and the directory on disk is refused: %s", error)
            return
        if self._live:
            return  # PostgreSQL answered in the meantime
        age_s = time.time() - loaded.contact_at
        log.warning(
            "PostgreSQL is away: serving from the directory on disk, generation %d, %.0f s old",
            loaded.generation,
            age_s,
        )
        self.contact_at = loaded.contact_at
        self._contact_clock = time.monotonic() - age_s
        self._publish(directory)

    async def _save(self) -> None:
        failing = False
        while True:
            await self._to_save.wait()
            began = time.monotonic()
            try:
                await self._save_once()
                failing = False
                took_s = time.monotonic() - began
                await asyncio.sleep(min(_SAVE_WAIT_S, took_s * (1 / _SAVE_SHARE - 1)))
            except OSError as error:
                if not failing:
                    log.error("the directory cannot be saved in %s: %s", self._config.folder, error)
                failing = True
                await asyncio.sleep(1.0)
                self._to_save.set()

    async def _save_once(self) -> None:
        self._to_save.clear()
        self._touched_at = contact_at = self.contact_at
        directory = self.current

        def write() -> bool:
            if not self._saved.mine():
                return False
            if directory is self._saved_directory:
                self._saved.touch(contact_at)
                return True
            payload = directory.encode(self._config.region)
            self._saved.write(payload, directory.generation, directory.read_at, contact_at)
            return True

        if await asyncio.to_thread(write):
            self._saved_directory = directory


def _line(error: BaseException) -> str:
    return " ".join((str(error) or type(error).__name__).split())
