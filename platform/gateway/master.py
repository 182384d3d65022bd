"""The gateway's first process: it holds the sockets and keeps the workers that serve on them.

It serves nobody itself, has no threads and no event loop, so that it can fork. A worker that dies
is forked again; SIGTERM lets all of them drain. On SIGHUP the master starts anew in place (the
same process, the new code and settings): its new workers take the same sockets, and the old ones
drain once all of the new ones accept. New code or settings that cannot start change nothing.
"""

import contextlib
import ctypes
import gc
import logging
import os
import selectors
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from gateway import channel, figures, inherited, sockets
from gateway.config import Config
from gateway.inherited import Inherited, Member, State

log = logging.getLogger(__name__)

_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD)
_BACKOFF_S = 0.1  # doubled by each death, up to
_BACKOFF_MAX_S = 5.0
_STABLE_S = 10.0  # who lived so long did not die of its start
_FIGURES_S = 1.0
_STOP_EXTRA_S = 15.0  # beyond the drain, for what is left to be shipped
_PR_SET_PDEATHSIG = 1
_NEVER = float("inf")

Serve = Callable[[Inherited], int]


@dataclass(eq=False)
class _Worker:
    pid: int
    slot: int
    generation: int
    line: socket.socket
    started_at: float
    ready: bool = False
    leave_by: float = _NEVER  # told to drain: it is killed then
    figures: bytes = b""  # the last that it gave
    buffer: bytearray = field(default_factory=bytearray)

    @property
    def leaving(self) -> bool:
        return self.leave_by < _NEVER


class Master:
    def __init__(
        self,
        config: Config,
        serve: Serve,
        memory: dict[str, int],
        state: State | None = None,
        ended: Callable[[int], None] = lambda pid: None,
    ) -> None:
        """`serve` is a worker's whole life; `memory` are sizes by name; `ended` is told each
        worker's end. Raises OSError."""
        self._tell_end = ended
        self._config = config
        self._serve = serve
        self._slots = config.workers
        self._workers: list[_Worker] = []
        self._selector = selectors.DefaultSelector()
        self._wake, self._woken = socket.socketpair()
        self._hangup = self._terminate = self._stopping = False
        self._check: subprocess.Popen[bytes] | None = None
        self._failures = [0] * self._slots
        self._start_at = [0.0] * self._slots
        self._ends = 0
        self._askers: set[_Worker] = set()
        self._awaited: set[_Worker] = set()
        self._answer_by = _NEVER
        self._code = 0
        self._served = state is not None  # a worker has been ready once
        self._generation = state.generation + 1 if state else 1
        self._retired = state.retired if state else b""
        self._memory = _memory(memory, state.memory if state else {})
        self._bind(state)
        for member in state.workers if state else ():
            self._adopt(member)

    @property
    def memory(self) -> dict[str, int]:
        """Descriptors by name."""
        return {name: fd for name, (fd, _) in self._memory.items()}

    def _bind(self, state: State | None) -> None:
        config = self._config
        address = (config.host, config.port)
        metrics = (config.metrics_host, config.metrics_port)
        if state is None:
            self._groups, self._address = sockets.bind(*address, self._slots), address
            self._metrics, self._metrics_address = _bind_metrics(metrics), metrics
            return
        self._groups, self._address = state.listeners, state.address
        self._metrics, self._metrics_address = state.metrics, state.metrics_address
        try:
            if state.address != address:
                self._groups, self._address = sockets.bind(*address, self._slots), address
                sockets.close(state.listeners)
            if state.metrics_address != metrics:
                self._metrics, self._metrics_address = _bind_metrics(metrics), metrics
                if state.metrics is not None:
                    os.close(state.metrics)
        except OSError as error:  # this is no reason to end what serves
            log.error("%s or %s: %s; the old address is kept", address, metrics, error)
        sockets.more(self._groups, self._slots)

    def _adopt(self, member: Member) -> None:
        line = socket.socket(fileno=member.channel)
        self._add(_Worker(
            member.pid, member.slot, member.generation, line, time.monotonic(),
            ready=member.ready, leave_by=self._drained_by() if member.leaving else _NEVER,
            figures=member.figures,
        ))  # fmt: skip

    def _add(self, worker: _Worker) -> None:
        worker.line.settimeout(1.0)  # for what is sent; it is read when something is there
        self._workers.append(worker)
        self._selector.register(worker.line, selectors.EVENT_READ, worker)

    # --- Life -------------------------------------------------------------------------
    def run(self) -> int:
        """Until SIGTERM; the exit code."""
        self._listen_to_signals()
        gc.freeze()  # what is here before the fork stays shared
        while True:
            self._reap()
            self._advance()
            if self._stopping and not self._workers:
                return self._code
            for key, _ in self._selector.select(self._patience()):
                if key.data is None:
                    self._wake.recv(4096)
                else:
                    self._hear(key.data)

    def _listen_to_signals(self) -> None:
        for end in (self._wake, self._woken):
            end.setblocking(False)
        signal.set_wakeup_fd(self._woken.fileno(), warn_on_full_buffer=False)
        self._selector.register(self._wake, selectors.EVENT_READ, None)
        for signum in (signal.SIGTERM, signal.SIGINT):
            signal.signal(signum, lambda *_: setattr(self, "_terminate", True))
        signal.signal(signal.SIGHUP, lambda *_: setattr(self, "_hangup", True))
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)

    def _patience(self) -> float | None:
        """How long nothing is due."""
        due = [self._answer_by, *(worker.leave_by for worker in self._workers)]
        if not self._stopping:
            due += [self._start_at[slot] for slot in self._missing()]
        if self._check is not None:
            due.append(time.monotonic() + 0.2)  # its SIGCHLD may have come before we looked
        first = min(due)
        return None if first == _NEVER else max(0.0, first - time.monotonic())

    def _missing(self) -> list[int]:
        there = {worker.slot for worker in self._workers if worker.generation == self._generation}
        return [slot for slot in range(self._slots) if slot not in there]

    def _advance(self) -> None:
        now = time.monotonic()
        if self._terminate:
            self._stop()
        if now >= self._answer_by:
            self._answer()
        for worker in self._workers:
            if now >= worker.leave_by:
                log.error("worker %d does not end; it is killed", worker.pid)
                _send(worker, signal.SIGKILL)
                worker.leave_by = now + _STOP_EXTRA_S
        if self._stopping:
            return
        for slot in self._missing():
            if now >= self._start_at[slot]:
                self._fork(slot)
        if self._check is not None and self._check.poll() is not None:
            self._checked(self._check.returncode)
        elif self._hangup and self._check is None:
            self._hangup = False
            log.info("checking whether the new code and settings can start")
            self._check = subprocess.Popen([sys.executable, *sys.orig_argv[1:], "--check"])

    def _stop(self) -> None:
        self._terminate, self._stopping = False, True
        sockets.close(self._groups)  # or clients would queue where nobody accepts any more
        for worker in self._workers:
            worker.leave_by = self._drained_by()
            _send(worker, signal.SIGTERM)

    def _drained_by(self) -> float:
        return time.monotonic() + self._config.drain_s + _STOP_EXTRA_S

    # --- Workers ----------------------------------------------------------------------
    def _fork(self, slot: int) -> None:
        ours, theirs = socket.socketpair()
        signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)  # until the child has its own handlers
        parent = os.getpid()
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                ours.close()
                code = self._serve(self._hand_down(slot, theirs, parent))
            except SystemExit as error:
                print(error, file=sys.stderr)
            except BaseException:
                log.exception("worker %d failed", os.getpid())
            finally:
                sys.stderr.flush()
                sys.stdout.flush()
                os._exit(code)  # nothing of the master's is to be unwound here
        theirs.close()
        self._add(_Worker(pid, slot, self._generation, ours, time.monotonic()))
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)

    def _hand_down(self, slot: int, line: socket.socket, parent: int) -> Inherited:
        """In the child: keep what is the worker's, let go of the rest."""
        libc = ctypes.CDLL(None, use_errno=True)
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(1)  # the master was killed before we asked to end with it
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # of a terminal: the master passes it on
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
        self._selector.close()
        for end in (self._wake, self._woken, *(worker.line for worker in self._workers)):
            end.close()
        mine = sockets.share(self._groups, slot, self._slots)
        sockets.close([[fd for group in self._groups for fd in group if fd not in mine]])
        memory = {name: fd for name, (fd, _) in self._memory.items()}
        return Inherited(slot, self._slots, mine, self._metrics, line.detach(), memory)

    def _reap(self) -> None:
        for worker in list(self._workers):
            pid, status = os.waitpid(worker.pid, os.WNOHANG)
            if pid:
                self._hear(worker)  # its last words
                self._ended(worker, os.waitstatus_to_exitcode(status))

    def _ended(self, worker: _Worker, code: int) -> None:
        self._workers.remove(worker)
        self._tell_end(worker.pid)
        with contextlib.suppress(KeyError):
            self._selector.unregister(worker.line)
        worker.line.close()
        self._retired = figures.merge([self._retired, figures.lasting(worker.figures)])
        self._askers.discard(worker)
        self._heard(worker)
        if self._stopping and code not in (0, -signal.SIGTERM):
            self._code = self._code or 1
        if self._stopping or worker.leaving:
            return
        self._ends += 1
        log.error("worker %d ended (%d)", worker.pid, code)
        if worker.generation != self._generation:
            return
        if not self._served:  # the first start fails: whoever started us shall see it
            self._code = code if code > 0 else 1
            self._terminate = True
            return
        lived_s = time.monotonic() - worker.started_at
        failures = self._failures[worker.slot] = (
            1 if lived_s > _STABLE_S else self._failures[worker.slot] + 1
        )
        pause_s = min(_BACKOFF_MAX_S, _BACKOFF_S * 2 ** (failures - 1))
        self._start_at[worker.slot] = time.monotonic() + pause_s

    def _hear(self, worker: _Worker) -> None:
        with contextlib.suppress(OSError, KeyError):
            worker.line.setblocking(False)
            while data := worker.line.recv(1 << 16):
                worker.buffer += data
            self._selector.unregister(worker.line)  # it has closed it; its end is reaped
        with contextlib.suppress(OSError):
            worker.line.settimeout(1.0)
        for kind, payload in channel.frames(worker.buffer):
            if kind == channel.READY:
                worker.ready = self._served = True
                if worker.leaving:  # it did not hear yet when it was told
                    _send(worker, signal.SIGHUP)
                self._relieve()
            elif kind == channel.FIGURES:
                worker.figures = payload
                self._heard(worker)
            elif kind == channel.TOTAL:
                self._ask(worker)

    def _relieve(self) -> None:
        """The old generation may go once every slot of the new one accepts."""
        new = [worker for worker in self._workers if worker.generation == self._generation]
        if self._stopping or len(new) < self._slots or not all(worker.ready for worker in new):
            return
        for worker in self._workers:
            if worker.generation != self._generation and not worker.leaving:
                worker.leave_by = self._drained_by()
                _send(worker, signal.SIGHUP)

    # --- Figures ----------------------------------------------------------------------
    def _ask(self, asker: _Worker) -> None:
        self._askers.add(asker)
        if self._awaited:
            return
        self._awaited = set(self._workers)
        self._answer_by = time.monotonic() + _FIGURES_S
        for worker in self._workers:
            if not _tell(worker, channel.frame(channel.FIGURES)):
                self._awaited.discard(worker)

    def _heard(self, worker: _Worker) -> None:
        self._awaited.discard(worker)
        if self._askers and not self._awaited:
            self._answer()

    def _answer(self) -> None:
        ready = sum(worker.ready and not worker.leaving for worker in self._workers)
        own = (
            f"# TYPE stoa_gateway_workers gauge\nstoa_gateway_workers {ready}\n"
            "# TYPE stoa_gateway_worker_ends_total counter\n"
            f"stoa_gateway_worker_ends_total {self._ends}\n"
        )
        each = [worker.figures for worker in self._workers]
        total = figures.merge([*each, self._retired, own.encode()])
        askers, self._askers = self._askers, set()
        self._awaited, self._answer_by = set(), _NEVER
        for asker in askers:
            _tell(asker, channel.frame(channel.TOTAL, total))

    # --- Starting anew ----------------------------------------------------------------
    def _checked(self, code: int) -> None:
        self._check = None
        if code:
            log.error("the new code or settings cannot start; the old ones serve on")
            return
        log.info("starting anew; the workers serve on until others do")
        signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)  # also beyond the exec
        state = State(
            self._generation, self._address, self._groups, self._metrics_address, self._metrics,
            self._memory, [_member(worker) for worker in self._workers], self._retired,
        )  # fmt: skip
        os.environ[inherited.STATE] = str(inherited.save(state))
        try:
            os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])
        except OSError as error:
            del os.environ[inherited.STATE]
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
            log.error("cannot start anew: %s", error)


def _bind_metrics(address: tuple[str, int]) -> int | None:
    if not address[1]:
        return None
    (group,) = sockets.bind(*address, 1)
    for spare in group[1:]:
        os.close(spare)
    return group[0]


def _member(worker: _Worker) -> Member:
    return Member(
        worker.pid, worker.slot, worker.generation, worker.line.fileno(), worker.ready,
        worker.leaving, worker.figures,
    )  # fmt: skip


def _memory(sizes: dict[str, int], known: dict[str, tuple[int, int]]) -> dict[str, tuple[int, int]]:
    """A descriptor and size for each; a size that changed gets new memory."""
    made = {}
    for name, size in sizes.items():
        fd, old_size = known.pop(name, (-1, 0))
        if old_size != size:
            if old_size:
                os.close(fd)
            fd = os.memfd_create(name)
            os.truncate(fd, size)
        made[name] = fd, size
    for fd, _ in known.values():
        os.close(fd)
    return made


def _send(worker: _Worker, signum: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(worker.pid, signum)


def _tell(worker: _Worker, data: bytes) -> bool:
    try:
        worker.line.sendall(data)
    except OSError:
        return False
    return True
