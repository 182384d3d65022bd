"""Hands finished requests to an OpenTelemetry collector: OTLP over HTTP, in JSON.

Our own and not OpenTelemetry's SDK, which brings protobuf and another HTTP client for what is a
page of JSON here. A thread tells many at once; a collector that is away
or slow holds up nothing, and what does not fit in memory any more is dropped and counted.
"""

import logging
import queue
import ssl
import threading
import time
from collections.abc import Mapping

import httpx

from gateway import spans
from gateway.spans import Finished
from gateway.trace import Trace
from gateway.trace_settings import TraceSettings

log = logging.getLogger(__name__)

_EVERY_S = 1.0
_BATCH = 256
_PENDING = 4096
_STOP_S = 3.0
_TRY_AGAIN = {429, 502, 503, 504}  # as OTLP says
_TRIES = 3
_PAUSE_S = 1.0  # doubled after each
_COMPLAIN_S = 60.0


class Tracer:
    """`begin` and `add` in the event loop; the rest is a thread's."""

    def __init__(self, settings: TraceSettings) -> None:
        self.dropped = 0  # for want of room, here
        self.lost = 0  # the collector did not take them
        self._settings = settings
        self._queue: queue.Queue[Finished] = queue.Queue(_PENDING)
        self._stopping = threading.Event()
        self._complained = 0.0
        self._thread = threading.Thread(target=self._run, name="tracer", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Blocks until all is told, or for as long as a shutdown may wait for that."""
        self._stopping.set()
        self._thread.join(_STOP_S)

    def begin(self, headers: Mapping[bytes, bytes]) -> Trace:
        return self._settings.sampler.begin(headers.get(b"traceparent"))

    def add(self, request: Finished) -> None:
        try:
            self._queue.put_nowait(request)
        except queue.Full:
            self.dropped += 1

    def _run(self) -> None:
        settings = self._settings
        logging.getLogger("httpx").setLevel(logging.WARNING)  # it tells every request
        verify: ssl.SSLContext | bool = True
        if settings.certificate:
            verify = ssl.create_default_context(cafile=settings.certificate)
        headers = {**settings.headers, "content-type": "application/json"}
        with httpx.Client(headers=headers, timeout=settings.timeout_s, verify=verify) as http:
            while True:
                stopping = self._stopping.wait(_EVERY_S)
                while batch := self._batch():
                    self._tell(http, batch)
                if stopping:
                    return

    def _batch(self) -> list[Finished]:
        batch: list[Finished] = []
        while len(batch) < _BATCH:
            try:
                batch.append(self._queue.get_nowait())
            except queue.Empty:
                break
        return batch

    def _tell(self, http: httpx.Client, batch: list[Finished]) -> None:
        content = spans.document(self._settings.resource, batch)
        why = ""
        for pause in range(_TRIES):
            if pause and self._stopping.wait(_PAUSE_S * 2**pause):
                break
            try:
                reply = http.post(self._settings.url, content=content)
            except httpx.HTTPError as error:
                why = type(error).__name__
                continue
            if reply.is_success:
                return
            why = f"status {reply.status_code}"
            if reply.status_code not in _TRY_AGAIN:
                break
        self.lost += len(batch)
        if time.monotonic() - self._complained > _COMPLAIN_S:
            self._complained = time.monotonic()
            log.warning("the collector did not take %d requests' spans: %s", len(batch), why)
