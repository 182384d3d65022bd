"""What this node has and what it lacks, each lack with its cure."""

import sys
from collections.abc import Callable
from datetime import datetime

import msgspec

from controlplane.fleet import wire
from workers.agent import credential
from workers.agent.settings import Settings

GIB = 1 << 30
DISK_WANTED_BYTES = 20 * GIB  # an engine environment and a small model


class Finding(msgspec.Struct):
    check: str
    ok: bool
    text: str
    cure: str = ""


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
            print(f"{'ok  ' if one.ok else 'LACK'} {one.check}: {one.text}")
            if one.cure and not one.ok:
                print(f"     cure: {one.cure}")
    return 0 if found.ok else 1


def findings(settings: Settings, inventory: wire.Inventory, now: datetime) -> Findings:
    found = [
        _devices(inventory),
        *_walls(inventory),
        _engines(inventory),
        _disk(settings, inventory),
        _credential(settings, now),
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


def _engines(inventory: wire.Inventory) -> Finding:
    text = ", ".join(inventory.engines) or "no engine environment is ready"
    cure = "the first replica installs one; `make engine` does it now"
    return Finding("engine environment", bool(inventory.engines), text, cure)


def _disk(settings: Settings, inventory: wire.Inventory) -> Finding:
    free = inventory.disk_free_bytes
    text = f"{free / GIB:.0f} GiB free at {settings.cache}"
    return Finding("disk", free >= DISK_WANTED_BYTES, text, "free some, or move STOA_CACHE_DIR")


def _credential(settings: Settings, now: datetime) -> Finding:
    cure = "python -m workers.agent join --url URL --token TOKEN"
    try:
        identity = credential.load(settings.directory)
    except credential.CredentialError as error:
        return Finding("credential", False, str(error), cure)
    if identity is None:
        return Finding("credential", False, "this node has not joined", cure)
    hours = (identity.expires_at - now).total_seconds() / 3600
    state = "expired" if hours <= 0 else f"good for {hours:.1f} h"
    return Finding("credential", hours > 0, f"{identity.credential.node_id}, {state}", cure)
