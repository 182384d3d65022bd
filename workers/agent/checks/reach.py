"""Whom this machine reaches, how far its clock is from theirs, and whether its port is free."""

import contextlib
import http.client
import os
import socket
import ssl
import time
from collections.abc import Callable, Iterable
from email.utils import parsedate_to_datetime
from pathlib import Path
from urllib.parse import urlsplit

from controlplane.fleet.wire import CLOCK_SKEW_S
from workers.agent import records, uv
from workers.agent.checks.finding import Finding
from workers.agent.settings import Settings

TIMEOUT_S = 5.0
OFF_S = 5.0  # a date has whole seconds, and the answer was on its way


def findings(
    settings: Settings, url: str, *, wall: Callable[[], float] = time.time
) -> list[Finding]:
    """`url`: the control plane's; empty: not known yet."""
    found = []
    if url:
        found += _control_plane(url, wall)
    else:
        cure = "set STOA_CONTROLPLANE_URL"
        found.append(Finding("control plane", False, "its address is not known", cure))
    found += [_reached("mirror", place) for place in settings.reach]
    found += [_reached("package index", place) for place in _indexes()]
    return found + _relay(settings)


def _control_plane(url: str, wall: Callable[[], float]) -> list[Finding]:
    reached = _reached("control plane", url)
    if not reached.ok:
        return [reached]
    theirs = _date(url)
    if theirs is None:
        return [reached]  # it talks to nodes that have joined alone
    off = wall() - theirs
    text = f"within {abs(off):.0f} s of the control plane's"
    if abs(off) < OFF_S:
        return [reached, Finding("clock", True, text, figures={"offset_s": round(off, 1)})]
    text = f"{abs(off):.0f} s {'ahead of' if off > 0 else 'behind'} the control plane's"
    refuses = abs(off) >= CLOCK_SKEW_S
    cure = "start an NTP service (chrony or systemd-timesyncd)"
    figures = {"offset_s": round(off, 1)}
    return [reached, Finding("clock", False, text, cure, refuses=refuses, figures=figures)]


def _reached(what: str, place: str) -> Finding:
    """A connection, and no request: whether it lets us in is another question."""
    parts = urlsplit(place)
    if parts.scheme in ("", "file"):
        path = Path(parts.path or place)
        cure = f"mount it, or correct the setting that names {place}"
        return Finding(what, path.exists(), str(path), "" if path.exists() else cure)
    try:
        host = parts.hostname or ""
        port = parts.port or (443 if parts.scheme == "https" else 80)
        began = time.perf_counter()
        with socket.create_connection((host, port), TIMEOUT_S):
            took_ms = (time.perf_counter() - began) * 1000
    except (OSError, ValueError) as error:
        cure = "see name resolution, routes and firewalls between here and there"
        return Finding(what, False, f"{place} is not reached: {error}", cure)
    figures = {"connect_ms": round(took_ms, 1)}
    return Finding(what, True, f"{host} port {port} in {took_ms:.0f} ms", figures=figures)


def _date(url: str) -> float | None:
    """When its web server says that it is; no more is believed of it, so nobody is proved."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    connection: http.client.HTTPConnection
    if parts.scheme == "https":
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        connection = http.client.HTTPSConnection(
            host, parts.port, timeout=TIMEOUT_S, context=context
        )
    else:
        connection = http.client.HTTPConnection(host, parts.port, timeout=TIMEOUT_S)
    with contextlib.closing(connection), contextlib.suppress(OSError, http.client.HTTPException):
        connection.request("HEAD", "/")
        said = connection.getresponse().headers.get("date")
        with contextlib.suppress(ValueError):
            return parsedate_to_datetime(said).timestamp() if said else None
    return None


def _indexes() -> Iterable[str]:
    """Where uv looks for packages, as far as somebody has set that."""
    given = uv.environment()
    for name in ("UV_DEFAULT_INDEX", "UV_INDEX", "UV_FIND_LINKS"):
        for place in given.get(name, "").replace(",", " ").split():
            yield place.rpartition("=")[2] if "=" in place.partition(":")[0] else place


def _relay(settings: Settings) -> list[Finding]:
    if settings.relay is None:
        return []
    host, port = settings.relay
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        with socket.socket(family) as trial:
            trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            trial.bind((host, port))
    except OSError as error:
        if _agent_runs(settings):
            return [Finding("relay port", True, f"{host} port {port} is the running agent's")]
        cure = "see who listens (ss -ltnp), or give STOA_AGENT_RELAY another address or port"
        text = f"{host} port {port} cannot be had: {os.strerror(error.errno or 0)}"
        return [Finding("relay port", False, text, cure, refuses=True)]
    return [Finding("relay port", True, f"{host} port {port} is free")]


def _agent_runs(settings: Settings) -> bool:
    if not settings.directory.exists():
        return False
    try:
        with records.lock(settings.directory, wait_s=0.0):
            return False
    except records.Locked:
        return True
