"""Thousandths of one device: who may ask for them, and what may not be asked for with them.

Replicas of one organization share a device, of several of its projects too: the organization is
the tenant, which pays and whose members administer all of it, and each engine still has a user,
a network and a home of its own. What neighbours learn of each other is how busy the device is.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from controlplane.endpoints.errors import Invalid
from controlplane.fleet.engines import ENGINES, Engine
from controlplane.fleet.models import Pool
from controlplane.placement.mix import WHOLE

FIELD = "device_share"
# They say how much memory an engine takes, which is what a share says.
MEMORY = ("gpu_memory_utilization", "kv_cache_memory_bytes")


def check(
    share: int, engine: Engine, arguments: Mapping[str, Any], own_program: bool, devices: int
) -> None:
    """Invalid for a share that an engine of this kind, or a replica of this shape, cannot have.

    `devices`: on all nodes; `own_program`: the node brings it, it is started from no image.
    """
    if not 1 <= share <= WHOLE:
        raise _invalid(f"expected 1 to {WHOLE} thousandths of a device, not {share}")
    if share == WHOLE:
        return
    if devices != 1:
        raise _invalid(f"a part of one device is shared; {devices} are asked for")
    if not (own_program and engine.can.share):
        able = ", ".join(sorted(name for name, one in ENGINES.items() if one.can.share))
        what = engine.name if own_program else f"{engine.name} from an image"
        raise _invalid(
            f"{what} takes whole devices: only an engine that the platform starts without an image"
            f" can be kept to its share of the memory ({able})",
            code="engine_cannot_share",
        )
    if said := [name for name in MEMORY if name in arguments]:
        message = f"{said[0]} follows from the endpoint's device_share: leave it out"
        raise Invalid(message, code="engine_arg_invalid", field=f"engine_args.{said[0]}")


def first(share: int, pools: Sequence[Pool]) -> Pool:
    """Of pools that have the devices, in their order, the one that takes such a share."""
    able = (pool for pool in pools if share == WHOLE or pool.share_devices)
    found = next(able, None)
    if found is None:
        raise _invalid(
            f"pool {pools[0].name} does not let replicas share a device: that is its policy",
            code="pool_shares_no_devices",
        )
    return found


def _invalid(message: str, *, code: str = f"invalid_{FIELD}") -> Invalid:
    return Invalid(message, code=code, field=FIELD)
