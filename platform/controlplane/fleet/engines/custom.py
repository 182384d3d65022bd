"""Any image that serves HTTP on a port: what it is started with is the endpoint's own."""

from collections.abc import Mapping

from controlplane.fleet import wire
from controlplane.fleet.engines.base import Can, Engine, Place, Refused, Shape, Value, Way


class Custom(Engine):
    name = "custom"
    ways = frozenset({Way.CONTAINER})
    can = Can()

    def arguments(self, spec: wire.ReplicaSpec, place: Place) -> list[str]:
        return list(spec.image.command) if spec.image is not None else []

    def variables(self, spec: wire.ReplicaSpec, place: Place) -> dict[str, str]:
        return dict(spec.image.env) if spec.image is not None else {}

    def health_path(self, spec: wire.ReplicaSpec) -> str:
        return spec.image.readiness_path if spec.image is not None else "/"

    def infers(self, spec: wire.ReplicaSpec) -> bool:
        return spec.image is not None and spec.image.openai

    def check(self, args: Mapping[str, object], shape: Shape) -> dict[str, Value]:
        for name in args:
            raise Refused(name, "a custom image has no engine settings: give it a command")
        return {}
