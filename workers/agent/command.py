"""The command line and the environment of an engine that runs as a process of this node. Pure.

What is an engine's own stands in its class (controlplane.fleet.engines).
"""

from pathlib import Path

from controlplane.fleet import engines, wire
from controlplane.fleet.engines.base import Network, Place, SpecError, Value, offline
from workers.agent import shared_libraries, tunnel
from workers.agent.launcher import isolation

__all__ = ["Place", "SpecError", "Value", "arguments", "environment", "network"]


def arguments(spec: wire.ReplicaSpec, place: Place) -> list[str]:
    """What follows the engine's program. Raises SpecError."""
    return engines.of(spec.engine).arguments(spec, place)


def environment(spec: wire.ReplicaSpec, place: Place, bin_directory: Path) -> dict[str, str]:
    """The whole environment of an engine. `home` and `scratch` of its place belong to its uid."""
    env = {
        "PATH": f"{bin_directory}:/usr/local/bin:/usr/bin:/bin",
        "LD_LIBRARY_PATH": shared_libraries.folder(bin_directory.parent),
        "LANG": "C.UTF-8",
        "HOME": str(place.home),
        # A uid of ours has no line in the user database; libraries ask for a name.
        "USER": "engine",
        "LOGNAME": "engine",
        "TMPDIR": str(place.scratch),
        "XDG_CACHE_HOME": f"{place.home}/cache",
        "XDG_CONFIG_HOME": f"{place.home}/config",
        "HF_HOME": f"{place.home}/cache/huggingface",
        "SPT_NOENV": "1",  # process titles would overwrite the marks (processes.py)
        **offline(),
        **engines.of(spec.engine).variables(spec, place),
    }
    if place.gpu:
        env["CUDA_VISIBLE_DEVICES"] = ",".join(str(index) for index in spec.device_indexes)
        env["CUDA_DEVICE_ORDER"] = "PCI_BUS_ID"
    return env


def network(seat: wire.Seat | None) -> Network:
    """What its namespace has: loopback and nothing else, but for the way to its gang's others."""
    if seat is None:
        return Network()
    return Network(tunnel.address(seat.rank), isolation.GANG, tunnel.address(0))
