"""The gateway's settings, read once from the environment (docs/settings.md lists them).

A secret NAME may also come from the file that NAME_FILE names.
"""

import ipaddress
import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from billing import passes
from gateway import trace_settings
from gateway.table import COLUMNS
from gateway.trace_settings import TraceSettings

WORKERS_MAX = COLUMNS // 2  # at a reload, old and new ones count at the same time


class ConfigError(Exception):
    """A setting is missing or wrong; the message names it."""


@dataclass(frozen=True, kw_only=True)
class Config:
    """Durations in seconds, sizes in bytes. Secrets stay out of `repr`."""

    database_url: str = field(repr=False)  # as a role that may do what compliance.grants says
    pepper: bytes = field(repr=False)  # keys the hashes of API keys; the control plane holds it too
    folder: Path  # spool and directory copy; 0700
    gateway_id: str  # unique among gateways, the same after a restart
    region: str
    host: str = "127.0.0.1"
    port: int = 8080
    workers: int = 1  # processes that serve
    metrics_host: str = "127.0.0.1"
    metrics_port: int = 0  # 0: no metrics listener
    hosts: int = 1  # gateways that serve the region: they share rate limits and budgets
    trusted_proxies: tuple[str, ...] = ()  # CIDR; their x-forwarded-for counts
    directory_max_age_s: float = 900.0  # how long it serves without contact to PostgreSQL
    hold_s: float = 120.0  # how long a request waits for an endpoint that wakes
    drain_s: float = 30.0  # how long running requests may take to end after SIGTERM
    body_limit_bytes: int = 10 << 20
    activity_every_s: float = 5.0
    # Where this host's engines have their sockets. A node says where an engine is reached, and
    # nodes are not trusted: elsewhere, and by default anywhere, no socket is connected to.
    sockets: Path | None = None
    tls_certificate: Path | None = None  # PEM: clients are served with TLS
    tls_key: Path | None = None
    certificate: Path | None = None  # PEM: what a node's relay admits
    certificate_key: Path | None = None
    certificate_ca: Path | None = None  # PEM: the region's CA, which signs relays
    house_url: str = ""  # the control plane, for files and batches; empty: there are none
    log_level: str = "INFO"
    access_log: bool = False  # a line on standard output for each request
    traces: TraceSettings | None = None

    @cached_property
    def pass_key(self) -> bytes:
        """What passes for lines of batches are made with."""
        return passes.key(self.pepper, passes.TO_GATEWAY)

    @classmethod
    def from_env(cls, environ: Mapping[str, str] = os.environ) -> "Config":
        """Raises ConfigError with the variable's name."""
        read = _Reader(environ)
        scale = read.seconds("STOA_TIME_SCALE", 1.0)
        config = cls(
            database_url=read.text("STOA_GATEWAY_DATABASE_URL"),
            pepper=read.text("STOA_KEY_PEPPER").encode(),
            folder=Path(read.text("STOA_GATEWAY_DIR")).absolute(),
            gateway_id=read.text("STOA_GATEWAY_ID", socket.gethostname()),
            region=read.text("STOA_REGION"),
            host=read.text("STOA_GATEWAY_HOST", "127.0.0.1"),
            port=read.port("STOA_GATEWAY_PORT", 8080),
            workers=read.size("STOA_GATEWAY_WORKERS", 1),
            metrics_host=read.text("STOA_GATEWAY_METRICS_HOST", "127.0.0.1"),
            metrics_port=read.port("STOA_GATEWAY_METRICS_PORT", 0),
            hosts=max(1, read.size("STOA_GATEWAY_HOSTS", 1)),
            trusted_proxies=read.networks("STOA_GATEWAY_TRUSTED_PROXIES"),
            directory_max_age_s=read.seconds("STOA_DIRECTORY_MAX_AGE_S", 900),
            hold_s=read.seconds("STOA_GATEWAY_HOLD_S", 120),
            drain_s=read.seconds("STOA_GATEWAY_DRAIN_S", 30),
            body_limit_bytes=read.size("STOA_GATEWAY_BODY_LIMIT_BYTES", 10 << 20),
            activity_every_s=read.seconds("STOA_GATEWAY_ACTIVITY_EVERY_S", 5) * scale,
            sockets=read.path("STOA_GATEWAY_SOCKETS"),
            tls_certificate=read.file("STOA_GATEWAY_TLS_CERTIFICATE"),
            tls_key=read.file("STOA_GATEWAY_TLS_KEY"),
            certificate=read.file("STOA_GATEWAY_CERTIFICATE"),
            certificate_key=read.file("STOA_GATEWAY_KEY"),
            certificate_ca=read.file("STOA_GATEWAY_CA"),
            house_url=read.text("STOA_GATEWAY_CONTROLPLANE_URL", ""),
            log_level=read.text("STOA_LOG_LEVEL", "INFO").upper(),
            access_log=read.flag("STOA_GATEWAY_ACCESS_LOG", True),
            traces=_traces(environ),
        )
        config._check()
        return config

    def _check(self) -> None:
        if len(self.gateway_id) > 64:
            raise ConfigError("STOA_GATEWAY_ID: at most 64 characters")
        if not 1 <= self.workers <= WORKERS_MAX:
            raise ConfigError(f"STOA_GATEWAY_WORKERS={self.workers}: expected 1 to {WORKERS_MAX}")
        if not self.database_url.startswith(("postgresql://", "postgres://")):
            raise ConfigError("STOA_GATEWAY_DATABASE_URL: expected postgresql://…")
        if (self.tls_certificate is None) != (self.tls_key is None):
            raise ConfigError(
                "STOA_GATEWAY_TLS_CERTIFICATE and STOA_GATEWAY_TLS_KEY: set both or none"
            )
        if self.house_url and not self.house_url.startswith(("http://", "https://")):
            raise ConfigError("STOA_GATEWAY_CONTROLPLANE_URL: expected http://… or https://…")
        pair = (self.certificate, self.certificate_key, self.certificate_ca)
        if any(pair) and not all(pair):
            raise ConfigError(
                "STOA_GATEWAY_CERTIFICATE, STOA_GATEWAY_KEY and STOA_GATEWAY_CA: set all or none"
            )


def _traces(environ: Mapping[str, str]) -> TraceSettings | None:
    try:
        return trace_settings.of(environ)
    except ValueError as error:
        raise ConfigError(str(error)) from None


def environment(environ: Mapping[str, str] = os.environ) -> dict[str, str]:
    """The environment, and on top of it what the file STOA_GATEWAY_SETTINGS says.

    A process's environment stays as it was at its start; the file is read again at each reload.
    Raises ConfigError.
    """
    merged = dict(environ)
    if not (path := environ.get("STOA_GATEWAY_SETTINGS")):
        return merged
    try:
        lines = Path(path).read_text().splitlines()
    except OSError as error:
        raise ConfigError(f"STOA_GATEWAY_SETTINGS={path}: {error.strerror}") from error
    for number, line in enumerate(map(str.strip, lines), 1):
        if not line or line.startswith("#"):
            continue
        name, found, value = line.partition("=")
        if not found:
            raise ConfigError(f"{path}: line {number}: expected NAME=value")
        merged[name.strip()] = value.strip().strip("\"'")
    return merged


class _Reader:
    def __init__(self, environ: Mapping[str, str]) -> None:
        self._environ = environ

    def text(self, name: str, default: str | None = None) -> str:
        if value := self._environ.get(name):
            return value
        if path := self._environ.get(f"{name}_FILE"):
            try:
                return Path(path).read_text().strip()
            except OSError as error:
                raise ConfigError(f"{name}_FILE={path}: {error.strerror}") from error
        if default is None:
            raise ConfigError(f"set {name} or {name}_FILE")
        return default

    def seconds(self, name: str, default: float) -> float:
        value = self._environ.get(name, "")
        try:
            number = float(value) if value else default
        except ValueError:
            raise ConfigError(f"{name}={value!r}: expected seconds") from None
        if not 0 < number < float("inf"):
            raise ConfigError(f"{name}={value!r}: expected more than 0 seconds")
        return number

    def size(self, name: str, default: int) -> int:
        value = self._environ.get(name, "")
        if value and not (value.isascii() and value.isdigit()):
            raise ConfigError(f"{name}={value!r}: expected a whole number")
        return int(value) if value else default

    def flag(self, name: str, default: bool) -> bool:
        value = self._environ.get(name, "").lower()
        if value not in ("", "true", "false"):
            raise ConfigError(f"{name}={value!r}: expected true or false")
        return value == "true" if value else default

    def port(self, name: str, default: int) -> int:
        number = self.size(name, default)
        if number > 65535:
            raise ConfigError(f"{name}={number}: expected a port, 0 to 65535")
        return number

    def networks(self, name: str) -> tuple[str, ...]:
        found = []
        for text in self._environ.get(name, "").replace(",", " ").split():
            try:
                found.append(str(ipaddress.ip_network(text)))
            except ValueError:
                raise ConfigError(f"{name}: {text!r} is no network such as 10.0.0.0/8") from None
        return tuple(found)

    def path(self, name: str) -> Path | None:
        value = self._environ.get(name, "")
        return Path(value).absolute() if value else None

    def file(self, name: str) -> Path | None:
        value = self._environ.get(name, "")
        if not value:
            return None
        path = Path(value)
        if not os.access(path, os.R_OK):
            raise ConfigError(f"{name}={value}: no such file, or it cannot be read")
        return path
