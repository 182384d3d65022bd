"""What this node has and what it lacks, each lack with its cure: before it joins, and later."""

import contextlib
import sys
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path

import msgspec
from cryptography import x509

from controlplane.fleet import wire
from workers.agent import credential
from workers.agent.checks import compiler, disk_speed, driver, reach
from workers.agent.checks.finding import Finding as Finding
from workers.agent.health import disk, memory, nvml
from workers.agent.settings import Settings

GIB = 1 << 30
DISK_WANTED_BYTES = 20 * GIB  # an engine environment and a small model
MEMORY_WANTED_BYTES = 2 * GIB  # an engine's imports, and what it loads through
BEFORE_JOINING_BYTES = 16 << 20  # of the disk's measure: whether it can be written at all
AUTHORITY_LEFT = timedelta(days=30)


class Findings(msgspec.Struct):
    ok: bool
    findings: list[Finding]
    inventory: wire.Inventory


def examine(
    settings: Settings, survey: Callable[[], wire.Inventory], *, as_json: bool = False
) -> int:
    """Print the findings; 0 when all is well, else 1."""
    found = findings(settings, survey(), credential.now_utc())
    if as_json:
        sys.stdout.write(msgspec.json.encode(found).decode() + "\n")
    else:
        for one in found.findings:
            print(line(one))
    return 0 if found.ok else 1


def line(one: Finding) -> str:
    text = f"{'ok  ' if one.ok else 'LACK'} {one.check}: {one.text}"
    return f"{text}\n     cure: {one.cure}" if one.cure and not one.ok else text


def before_joining(settings: Settings, survey: Callable[[], wire.Inventory]) -> list[Finding]:
    """The lacks with which this machine must not join; empty: it may. Blocks for seconds."""
    now = credential.now_utc()
    found = findings(settings, survey(), now, disk_bytes=BEFORE_JOINING_BYTES).findings
    return [one for one in found if one.refuses and not one.ok]


def findings(
    settings: Settings,
    inventory: wire.Inventory,
    now: datetime,
    *,
    disk_bytes: int = disk_speed.BYTES,
) -> Findings:
    """Everything that can be seen from here. Blocks: it measures the disk and connects."""
    identity, credential_finding = _credential(settings, now)
    reading = None if settings.devices else nvml.read()
    url = settings.url or (identity.url if identity is not None else "")
    found = [
        _devices(inventory),
        *driver.findings(reading),
        *compiler.findings(reading),
        *_walls(inventory),
        _containers(inventory),
        _engines(inventory),
        _disk(settings, inventory),
        *_health(settings),
        *disk_speed.findings(settings.cache, size=disk_bytes),
        _memory(),
        *reach.findings(settings, url),
        credential_finding,
        *_authorities(identity, now),
    ]
    return Findings(ok=all(one.ok for one in found), findings=found, inventory=inventory)


def _devices(inventory: wire.Inventory) -> Finding:
    healthy = [device for device in inventory.devices if device.healthy]
    text = ", ".join(f"{d.kind} ({d.memory_bytes / GIB:.0f} GiB)" for d in healthy) or "none"
    if len(healthy) < len(inventory.devices):
        sick = ", ".join(d.name for d in inventory.devices if not d.healthy)
        return Finding("devices", False, f"{text}; unhealthy: {sick}", "see nvidia-smi and dmesg")
    return Finding("devices", bool(healthy), text, "set STOA_AGENT_DEVICES=cpu:1")


def _walls(inventory: wire.Inventory) -> list[Finding]:
    raised = [Finding(f"wall {wall.value}", True, "can be raised") for wall in inventory.walls]
    cure = "run the agent as root, or keep this node to one organization"
    lacking = inventory.missing_walls.items()
    return raised + [Finding(f"wall {wall}", False, why, cure) for wall, why in lacking]


def _containers(inventory: wire.Inventory) -> Finding:
    """No lack: a node without them serves whatever is no image."""
    text = inventory.containers or "none: no image runs here (install podman and runc, or docker)"
    return Finding("containers", True, text)


def _engines(inventory: wire.Inventory) -> Finding:
    text = ", ".join(inventory.engines) or "no engine environment is ready"
    cure = "the first replica installs one; `make engine` does it now"
    return Finding("engine environment", bool(inventory.engines), text, cure)


def _disk(settings: Settings, inventory: wire.Inventory) -> Finding:
    free = inventory.disk_free_bytes
    text = f"{free / GIB:.0f} GiB free at {settings.cache}"
    return Finding("disk", free >= DISK_WANTED_BYTES, text, "free some, or move STOA_CACHE_DIR")


def _health(settings: Settings) -> list[Finding]:
    """What the agent would find of disks and memory, in doctor's words. Memory comes back."""
    disks = disk.findings((settings.directory, settings.cache))
    return [
        Finding(one.check, False, one.text, one.cure, refuses)
        for found, may_refuse in ((disks, True), (memory.findings(), False))
        for one in found
        for refuses in (may_refuse and one.severity is wire.Severity.CRITICAL,)
    ]


def _memory() -> Finding:
    free = 0
    with contextlib.suppress(OSError, ValueError):
        for row in Path("/proc/meminfo").read_text().splitlines():
            if row.startswith("MemAvailable:"):
                free = int(row.split()[1]) << 10
    text = f"{free / GIB:.1f} GiB can be had"
    cure = "see what holds it (ps aux --sort -rss)"
    figures = {"available_gib": round(free / GIB, 2)}
    return Finding("memory", free >= MEMORY_WANTED_BYTES, text, cure, figures=figures)


def _credential(settings: Settings, now: datetime) -> tuple[credential.Identity | None, Finding]:
    cure = "python -m workers.agent join --url URL --token TOKEN"
    try:
        identity = credential.load(settings.directory)
    except credential.CredentialError as error:
        return None, Finding("credential", False, str(error), cure)
    if identity is None:
        return None, Finding("credential", False, "this node has not joined", cure)
    hours = (identity.expires_at - now).total_seconds() / 3600
    state = "expired" if hours <= 0 else f"good for {hours:.1f} h"
    text = f"{identity.credential.node_id}, {state}"
    return identity, Finding("credential", hours > 0, text, cure)


def _authorities(identity: credential.Identity | None, now: datetime) -> list[Finding]:
    """The region's, by which the control plane and the gateways prove who they are."""
    if identity is None:
        return []
    return [_authority("region's authority", identity.credential.ca_pem.encode(), now)]


def _authority(check: str, pem: bytes, now: datetime) -> Finding:
    cure = "enrol again, with a token of its region"
    try:
        ends = min(one.not_valid_after_utc for one in x509.load_pem_x509_certificates(pem))
    except ValueError:
        return Finding(check, False, "it is no certificate", cure, refuses=True)
    text = f"good until {ends:%Y-%m-%d}"
    return Finding(check, ends - now > AUTHORITY_LEFT, text, cure)
