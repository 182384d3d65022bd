"""The process beside each container, which joins it to the world and says how it ended.

    python -m workers.agent.containers.door < request.json

It starts the container that the agent made, looks at its walls from outside, and joins

    the replica's unix socket               → the container's port on its loopback
    egress.PORT of the container's loopback → the egress proxy, started at the first call
    what the container prints               → the replica's log

until the container's first process has ended; then it notes how, and ends. It is the process that
the agent's record of the replica names: who is to know whether the replica lives asks whether its
door does. If the door dies, the replica is dead, and the agent removes the container.
"""

import asyncio
import contextlib
import json
import os
import socket
import struct
import sys
import time
from collections.abc import Callable
from pathlib import Path

import msgspec
import uvloop

from workers.agent import egress
from workers.agent.containers import entry, isolation
from workers.agent.containers.driver import ContainerError, Driver
from workers.agent.containers.namespace import Network
from workers.agent.containers.streams import Caller, Side
from workers.agent.launcher.engine import STARTS

LOG_BYTES = 64 << 20  # then the log begins anew, and one before it is kept
FAREWELL_S = 5.0  # for what it printed last, once it has ended
PROXY_START_S = 10.0
WALLS_S = 2.0
_FRAME = struct.Struct(">BxxxI")


class Request(msgspec.Struct, kw_only=True):
    """What the agent hands to a door, on its standard input."""

    address: str  # of the engine of containers
    container: str
    uid: int
    port: int
    socket: str  # to listen on; its folder is the agent's
    log: str
    exit: str
    egress: str = ""  # the folder of the egress proxy; empty: nothing leads out
    proxy: list[str] = []  # its command
    pipe: str = ""  # where the container's first program reads its secrets
    secrets: dict[str, str] = {}
    devices: list[str] = []  # paths of device nodes that it must have

    def __repr__(self) -> str:  # nobody logs by accident what it holds
        return f"Request({self.container})"


class Log:
    """The replica's log file, of bounded size."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._handle = self._open()

    def write(self, data: bytes) -> None:
        if os.fstat(self._handle).st_size + len(data) > LOG_BYTES:
            os.close(self._handle)
            self._path.replace(self._path.with_name(f"{self._path.name}.1"))
            self._handle = self._open()
        os.write(self._handle, data)

    def say(self, text: str) -> None:
        self.write(f"stoa {time.strftime('%H:%M:%S')} {text}\n".encode())

    def _open(self) -> int:
        return os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)


class Door:
    def __init__(self, request: Request) -> None:
        self._request = request
        self._driver = Driver(request.address)
        self._log = Log(Path(request.log))
        self._network: Network | None = None
        self._proxy: asyncio.subprocess.Process | None = None
        self._memory_ran_out: Callable[[], bool] = lambda: False
        self._starved = False
        self._proxy_lock = asyncio.Lock()
        self._tasks: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """From before the container's start to after its end."""
        self._log.say(STARTS)
        try:
            output = await self._attach()
            pid = await asyncio.to_thread(self._start)
            ended = self._watch(pid)
            printed = asyncio.create_task(self._copy(output))
            await self._open(pid)
        except (ContainerError, isolation.WallsMissing, entry.EntryError, OSError) as error:
            self._note(str(error), walls=isinstance(error, isolation.WallsMissing))
            await asyncio.to_thread(self._driver.remove, self._request.container)
            return
        await ended
        with contextlib.suppress(TimeoutError, OSError):
            await asyncio.wait_for(printed, FAREWELL_S)
        await self._farewell()

    # --- the container ---------------------------------------------------------------------

    def _start(self) -> int:
        """Its first process, with its walls seen to stand; 0: it has ended already."""
        request = self._request
        self._driver.start(request.container)
        pid = self._driver.pid(request.container)
        if not pid or not self._stands(pid):
            return 0
        with contextlib.suppress(OSError):
            self._memory_ran_out = isolation.killed_for_memory(pid)
        if missing := isolation.lacking(pid, request.devices):
            raise isolation.WallsMissing(f"it was not given its devices: {', '.join(missing)}")
        if request.pipe:
            entry.hand_over(Path(request.pipe), request.secrets, pid)
        return pid

    def _stands(self, pid: int) -> bool:
        """Whether it lives, behind its walls. The last of them rise just before its first program
        does, so what is missing may come. Raises WallsMissing."""
        deadline = time.monotonic() + WALLS_S
        while True:
            try:
                isolation.check(pid, self._request.uid)
                return True
            except OSError:
                return False
            except isolation.WallsMissing:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.002)

    def _watch(self, pid: int) -> asyncio.Future[None]:
        loop = asyncio.get_running_loop()
        ended: asyncio.Future[None] = loop.create_future()
        try:
            handle = os.pidfd_open(pid) if pid else -1
        except ProcessLookupError:
            handle = -1
        if handle < 0:
            ended.set_result(None)
            return ended

        def over() -> None:
            # At once: not every engine says so, and the count goes with the container.
            self._starved = self._memory_ran_out()
            loop.remove_reader(handle)
            os.close(handle)
            if not ended.done():
                ended.set_result(None)

        loop.add_reader(handle, over)
        return ended

    async def _open(self, pid: int) -> None:
        """Let the world in, and the container out to its proxy."""
        if not pid:
            return
        try:
            self._network = Network(pid)
        except FileNotFoundError:
            return  # it has ended: how, will be said
        loop = asyncio.get_running_loop()
        if self._request.egress:
            listener = self._network.listen(egress.PORT)
            await loop.create_server(lambda: Caller(self._to_proxy, self._tasks), sock=listener)
        await loop.create_unix_server(
            lambda: Caller(self._to_container, self._tasks), self._request.socket, backlog=1024
        )
        os.chmod(self._request.socket, 0o600)

    async def _farewell(self) -> None:
        """Note how it ended; the engine of containers may know it a moment after the kernel."""
        for _ in range(50):
            with contextlib.suppress(ContainerError):
                ended = await asyncio.to_thread(self._driver.ended, self._request.container)
                if ended is not None:
                    oom = ended.out_of_memory or self._starved
                    self._note(ended.error, code=ended.exit_code, oom=oom)
                    return
            await asyncio.sleep(0.1)
        self._note("its container is gone")

    def _note(
        self, text: str, *, code: int | None = None, oom: bool = False, walls: bool = False
    ) -> None:
        """For the agent, who reads it by the pid (engine exit reasons)."""
        noted = {"pid": os.getpid(), "code": code, "oom": oom, "walls": walls, "text": text}
        draft = Path(f"{self._request.exit}.new")
        draft.write_text(json.dumps(noted))
        draft.replace(self._request.exit)
        if text:
            self._log.say(f"the container could not go on: {text}")

    # --- what it prints --------------------------------------------------------------------

    async def _attach(self) -> asyncio.StreamReader:
        """Its output from its first byte on: asked for before it starts, kept by nobody else."""
        path = str(self._driver.socket)
        reader, writer = await asyncio.open_unix_connection(path)
        target = f"/v1.41/containers/{self._request.container}/attach?stream=1&stdout=1&stderr=1"
        head = f"POST {target} HTTP/1.1\r\nHost: engine\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n"
        writer.write(f"{head}Content-Length: 0\r\n\r\n".encode())
        status = await reader.readline()
        length = 0
        while line := (await reader.readline()).strip():
            name, _, value = line.partition(b":")
            length = int(value) if name.lower() == b"content-length" else length
        if status.split()[1:2] not in ([b"101"], [b"200"]):
            raise ContainerError(_reason(await reader.read(min(length, 1 << 16))))
        self._writer = writer  # as long as it is open, so is the output
        return reader

    async def _copy(self, output: asyncio.StreamReader) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError):
            while True:
                _, size = _FRAME.unpack(await output.readexactly(_FRAME.size))
                while size:
                    data = await output.read(min(size, 1 << 16))
                    if not data:
                        return
                    size -= len(data)
                    self._log.write(data)

    # --- connections -----------------------------------------------------------------------

    async def _to_container(self, side: Side) -> None:
        assert self._network is not None
        inward = self._network.connection()
        loop = asyncio.get_running_loop()
        try:
            inward.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            await loop.sock_connect(inward, ("127.0.0.1", self._request.port))
        except BaseException:
            inward.close()
            raise
        _, other = await loop.create_connection(Side, sock=inward)
        side.join(other)

    async def _to_proxy(self, side: Side) -> None:
        path = Path(self._request.egress) / egress.SOCKET
        async with self._proxy_lock:
            if self._proxy is None or self._proxy.returncode is not None:
                await self._start_proxy(path)
        loop = asyncio.get_running_loop()
        _, other = await loop.create_unix_connection(Side, str(path))
        side.join(other)

    async def _start_proxy(self, path: Path) -> None:
        """In our session and with our marks, so it lives and ends with us."""
        path.unlink(missing_ok=True)
        self._proxy = await asyncio.create_subprocess_exec(
            *self._request.proxy, stdin=asyncio.subprocess.DEVNULL
        )
        deadline = time.monotonic() + PROXY_START_S
        while not path.exists():
            if self._proxy.returncode is not None or time.monotonic() > deadline:
                raise ConnectionRefusedError("the egress proxy does not start")
            await asyncio.sleep(0.01)


def _reason(answer: bytes) -> str:
    """podman makes a container ready as soon as somebody looks, and says then what is wrong."""
    with contextlib.suppress(ValueError, KeyError, TypeError):
        return str(json.loads(answer)["message"])
    return f"no output can be had of it: {answer.decode(errors='replace')}"


def main() -> None:
    request = msgspec.json.decode(sys.stdin.buffer.read(), type=Request)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(Door(request).run())


if __name__ == "__main__":
    main()
