"""How one replica's model is split over its devices: tensor times pipeline. Pure.

vLLM's own advice is the default: tensor parallelism inside a node, where devices talk fast, and
pipeline parallelism from node to node, where they talk less.
"""

from collections.abc import Mapping

from controlplane.fleet.engines.base import Refused, Shape, Value


def settle(args: Mapping[str, Value], shape: Shape) -> dict[str, Value]:
    """`args` with the split written out where a replica has several devices. Raises Refused."""
    device_count, node_count = shape.device_count, shape.node_count
    devices = device_count * node_count
    if not {"tensor_parallel_size", "pipeline_parallel_size"} & args.keys():
        return {**args, **_default(device_count, node_count, shape.device_kind)}
    tensor = int(args.get("tensor_parallel_size") or 1)
    pipeline = int(args.get("pipeline_parallel_size") or 1)
    if tensor * pipeline != devices:
        raise _misfit(
            f"tensor_parallel_size {tensor} times pipeline_parallel_size {pipeline} uses "
            f"{_devices(tensor * pipeline)}, the endpoint has {_has(device_count, node_count)}"
        )
    if pipeline > 1 and shape.device_kind == "cpu":
        raise _misfit("the engine for CPUs has no pipeline parallelism; use tensor_parallel_size")
    return dict(args)


def _misfit(message: str) -> Refused:
    return Refused("tensor_parallel_size", message)


def _default(device_count: int, node_count: int, device_kind: str) -> dict[str, Value]:
    if device_count * node_count == 1:
        return {}
    if device_kind == "cpu":
        return {"tensor_parallel_size": device_count * node_count}
    found: dict[str, Value] = {"tensor_parallel_size": device_count}
    return found if node_count == 1 else {**found, "pipeline_parallel_size": node_count}


def _devices(count: int) -> str:
    return "1 device" if count == 1 else f"{count} devices"


def _has(device_count: int, node_count: int) -> str:
    per_node = f"device_count {device_count}"
    return per_node if node_count == 1 else f"{per_node} on each of {node_count} nodes"
