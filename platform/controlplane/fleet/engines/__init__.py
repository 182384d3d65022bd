"""The engines that nodes run: one small class each, for the control plane and for the agents.

A class says what its engine is started with, how it is known to be ready and idle, what its
figures mean and what it can do. Adding an engine is a file here and a name in `ENGINES`. No
Django: both sides import it.
"""

from controlplane.fleet.engines.base import Can, Engine, Place, Refused, SpecError, Value, Way
from controlplane.fleet.engines.custom import Custom
from controlplane.fleet.engines.trtllm import TrtLlm
from controlplane.fleet.engines.vllm import Vllm

__all__ = ["ENGINES", "Can", "Engine", "Place", "Refused", "SpecError", "Value", "Way", "of"]

ENGINES: dict[str, Engine] = {one.name: one for one in (Vllm(), TrtLlm(), Custom())}


def of(name: str) -> Engine:
    """The engine of that name. Raises SpecError."""
    if name not in ENGINES:
        raise SpecError(f"there is no engine {name!r}; there are {', '.join(ENGINES)}")
    return ENGINES[name]
