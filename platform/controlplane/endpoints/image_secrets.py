"""What a node is told for one start from an image: a login for the registry, and variables."""

from dataclasses import dataclass
from datetime import datetime

from compliance import audit, sealing
from compliance.keys import KeyDestroyed
from controlplane.endpoints import engine_versions, images
from controlplane.endpoints.models import Replica
from controlplane.endpoints.source_grants import Refused
from controlplane.endpoints.states import COMING, Reason
from controlplane.fleet import wire
from controlplane.fleet.models import Node
from controlplane.tenancy import project_secrets
from controlplane.tenancy.models import Project, ProjectSecret
from controlplane.tenancy.project_secrets import Kind


def grant(node: Node, request: wire.SecretsRequest, now: datetime) -> wire.Secrets:
    """The secrets of the replica's version. Raises Refused.

    Only for a replica of this very node, from an image, while it starts. Each secret that is
    handed out leaves an event.
    """
    wanted = Replica.objects.filter(id=request.replica_id, node_id=node.id, state__in=COMING)
    replica = wanted.select_related("endpoint__project__organization", "version").first()
    image = replica.version.image if replica is not None else None
    if replica is not None and image is None and engine_versions.from_image(replica.version):
        return wire.Secrets()  # the operator's image: no login and no variable of a project's
    if replica is None or image is None:
        raise Refused(Reason.ACCESS_DENIED, "nothing of this node's is to be started by that name")
    actor = audit.Actor("node", node.id, "certificate")
    told = _Told(replica.endpoint.project, actor, audit.Target("replica", replica.id), now)
    return wire.Secrets(
        registry=told.login(image["reference"], image["registry_secret"]),
        env={variable: told.value(name) for variable, name in sorted(image["secrets"].items())},
    )


@dataclass(frozen=True)
class _Told:
    project: Project
    actor: audit.Actor
    target: audit.Target
    now: datetime

    def value(self, name: str) -> str:
        found = project_secrets.find(self.project, Kind.ENV, name)
        if found is None:
            raise Refused(Reason.ACCESS_DENIED, f"the project's env secret {name} was deleted")
        return self._opened(found)["value"]

    def login(self, reference: str, name: str) -> wire.RegistryLogin | None:
        """None where the project gave none for this registry: the image is asked for as anybody."""
        found = project_secrets.find(self.project, Kind.REGISTRY, name)
        if found is None:
            if name:
                message = f"the project's registry secret {name} was deleted"
                raise Refused(Reason.ACCESS_DENIED, message)
            return None
        host, _ = images.split(reference)
        # Looked at first: the default may be another registry's, who must not be told it.
        theirs = self._unsealed(found)["host"]
        if theirs != host:
            if name:
                message = f"the registry secret {name} is for {theirs}, and the image at {host}"
                raise Refused(Reason.ACCESS_DENIED, message)
            return None
        value = self._opened(found)
        return wire.RegistryLogin(
            server=host, username=value["username"], password=value["password"]
        )

    def _opened(self, secret: ProjectSecret) -> dict[str, str]:
        self._unsealed(secret)
        return project_secrets.deliver_secret(
            actor=self.actor, secret=secret, target=self.target, now=self.now
        )

    def _unsealed(self, secret: ProjectSecret) -> dict[str, str]:
        try:
            return project_secrets.unsealed(secret)
        except (sealing.SealBroken, KeyDestroyed):
            message = (
                f"the project's {secret.kind} secret {secret.name} cannot be opened: set it anew"
            )
            raise Refused(Reason.ACCESS_DENIED, message) from None
