"""Which settings of its engine a tenant may choose: the engine's class says it (fleet.engines)."""

from collections.abc import Mapping
from typing import Any

from controlplane.endpoints.errors import Invalid
from controlplane.fleet import engines
from controlplane.fleet.engines.base import Shape

Value = engines.Value


def validate(
    args: Mapping[str, Any],
    device_count: int,
    device_kind: str = "",
    node_count: int = 1,
    *,
    engine: str = "vllm",
) -> dict[str, Value]:
    """The settings as the engine may have them, names in snake_case; else Invalid says which not.

    `device_count` is what a replica holds on each of its nodes.
    """
    try:
        return engines.of(engine).check(args, Shape(device_count, device_kind, node_count))
    except engines.Refused as error:
        field = f"engine_args.{error.setting[:64]}"
        raise Invalid(str(error), code=error.code, field=field) from None
