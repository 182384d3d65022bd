"""The agent's settings, from its environment. docs/settings.md lists them."""

import math
import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from workers.agent.engines import RUN_DIRECTORY_MAX
from workers.agent.environment import default_cache

_RELEASE = "0.1.0"
_BUNDLE = Path(__file__).resolve().parents[2] / "BUNDLE"  # its hash, where the join script put one
BUNDLE = _BUNDLE.read_text().strip() if _BUNDLE.is_file() else ""
VERSION = f"{_RELEASE}+{BUNDLE[:12]}" if BUNDLE else _RELEASE

RUN_DIR_MAX = RUN_DIRECTORY_MAX - len("/123456")  # each agent has a folder of its own in it

_YES = ("1", "true", "yes", "on")


class SettingError(Exception):
    """A setting that cannot be used; the message names it."""


@dataclass(frozen=True)
class Settings:
    directory: Path  # key, certificate, records, logs: nobody else's to read
    cache: Path  # engine environments, weights, compile caches
    run_dir: Path  # engines' sockets
    url: str = ""  # empty: the one that the node joined
    token: str = ""
    name: str = ""
    pin: str = ""  # sha256:…, of the region's authority: what a node that joins trusts
    devices: str = ""  # "cpu:2"; empty: what is found
    relay: tuple[str, int] | None = None
    stop_engines: bool = False
    standby: bool = True  # keep an engine with its imports done
    weights_bytes: int = 0  # what models may take of the disk; 0: all but a part of it
    containers: str = ""  # the Docker API's socket; empty: where it usually lies
    caches_bytes: int = 20 << 30  # what engines may leave of what they compiled
    kernel_log: Path | None = None  # instead of /dev/kmsg
    dcgm_url: str = ""  # of a dcgm-exporter on this node
    reach: tuple[str, ...] = ()  # the operator's mirrors, which doctor sees to
    reap_every_s: float = 60.0  # looks at what runs against what should
    reap_grace_s: float = 60.0  # how long something unknown of ours may be there
    alone: bool = False  # the node is the agent's: whoever else holds a device is ended
    residue_bytes: int = 1 << 30  # of a GPU's memory that nobody holds, the driver's own
    dirty_after_s: float = 30.0  # how long a device may take to come clean
    stale_weights_s: float = 86_400.0  # how long what nobody fetches any more is kept
    home: Path | None = None  # of launch.py, which started this: its releases
    home_try: str = ""  # the id of the try that this is, of a release that does not count yet


def read(environment: Mapping[str, str] = os.environ) -> Settings:
    """Raises SettingError."""
    root = os.geteuid() == 0
    home = Path(environment.get("HOME") or "/")
    state = Path("/var/lib/stoa-agent") if root else home / ".local/state/stoa-agent"
    run = Path("/run/stoa-agent") if root else Path(f"/tmp/stoa-{os.geteuid()}")
    settings = Settings(
        directory=_path(environment, "STOA_AGENT_DIR", state),
        cache=_path(environment, "STOA_CACHE_DIR", default_cache()),
        run_dir=_path(environment, "STOA_AGENT_RUN_DIR", run),
        url=environment.get("STOA_CONTROLPLANE_URL", ""),
        token=environment.get("STOA_AGENT_TOKEN", ""),
        name=environment.get("STOA_AGENT_NAME", "") or socket.gethostname(),
        pin=environment.get("STOA_CONTROLPLANE_PIN", ""),
        devices=environment.get("STOA_AGENT_DEVICES", ""),
        relay=_host_port("STOA_AGENT_RELAY", environment.get("STOA_AGENT_RELAY", "")),
        containers=environment.get("STOA_AGENT_CONTAINERS", ""),
        stop_engines=environment.get("STOA_AGENT_STOP_ENGINES", "") in _YES,
        standby=environment.get("STOA_AGENT_STANDBY", "1") in _YES,
        weights_bytes=_bytes(environment, "STOA_AGENT_WEIGHTS_BYTES"),
        caches_bytes=_bytes(environment, "STOA_AGENT_CACHES_BYTES", 20 << 30),
        kernel_log=Path(log) if (log := environment.get("STOA_AGENT_KERNEL_LOG")) else None,
        dcgm_url=_url(environment, "STOA_AGENT_DCGM_URL"),
        reach=tuple(environment.get("STOA_AGENT_REACH", "").replace(",", " ").split()),
        reap_every_s=_seconds(environment, "STOA_AGENT_REAP_EVERY_S", 60.0, least=0.1),
        reap_grace_s=_seconds(environment, "STOA_AGENT_REAP_GRACE_S", 60.0),
        alone=environment.get("STOA_AGENT_ALONE", "") in _YES,
        residue_bytes=_bytes(environment, "STOA_AGENT_RESIDUE_BYTES", 1 << 30),
        dirty_after_s=_seconds(environment, "STOA_AGENT_DIRTY_AFTER_S", 30.0),
        stale_weights_s=_seconds(environment, "STOA_AGENT_STALE_WEIGHTS_S", 86_400.0),
        home=Path(place) if (place := environment.get("STOA_AGENT_HOME")) else None,
        home_try=environment.get("STOA_AGENT_TRY", ""),
    )
    if len(os.fsencode(settings.run_dir)) > RUN_DIR_MAX:
        raise SettingError(
            f"STOA_AGENT_RUN_DIR={settings.run_dir} is too long for a socket in it: "
            f"at most {RUN_DIR_MAX} bytes"
        )
    return settings


def _path(environment: Mapping[str, str], name: str, default: Path) -> Path:
    return Path(environment.get(name) or default).absolute()


def _bytes(environment: Mapping[str, str], name: str, default: int = 0) -> int:
    value = environment.get(name) or str(default)
    if not value.isdecimal():
        raise SettingError(f"{name}={value!r}: expected a number of bytes")
    return int(value)


def _url(environment: Mapping[str, str], name: str) -> str:
    value = environment.get(name, "")
    if value and not value.startswith(("http://", "https://")):
        raise SettingError(f"{name}={value!r}: expected http://host:port/metrics")
    return value


def _seconds(
    environment: Mapping[str, str], name: str, default: float, *, least: float = 0.0
) -> float:
    value = environment.get(name) or str(default)
    try:
        seconds = float(value)
    except ValueError:
        seconds = math.nan
    if not least <= seconds < 1e9:
        raise SettingError(f"{name}={value!r}: expected a number of seconds, {least:g} at least")
    return seconds


def _host_port(name: str, value: str) -> tuple[str, int] | None:
    if not value:
        return None
    host, _, port = value.rpartition(":")
    if not host or not port.isdigit():
        raise SettingError(f"{name}={value!r}: expected host:port")
    return host.strip("[]"), int(port)
