"""What a node is told of a source: for a fetch that is wished of it, and of no other."""

from dataclasses import dataclass
from datetime import datetime

from django.conf import settings
from django.db.models import Q
from msgspec.structs import replace

from compliance import audit, sealing
from compliance.keys import KeyDestroyed
from controlplane.endpoints import pulls, sources
from controlplane.endpoints.models import (
    Endpoint,
    EndpointVersion,
    PullNode,
    Replica,
    Upload,
    UploadFile,
)
from controlplane.endpoints.states import COMING, LIVE, Reason, State
from controlplane.fleet import wire
from controlplane.fleet.models import Node
from controlplane.fleet.wire import SourceKind
from controlplane.tenancy import project_secrets
from controlplane.tenancy.errors import Invalid
from controlplane.tenancy.models import Project


class Refused(Exception):
    """Why a model cannot be fetched; `reason` is an endpoints.states.Reason."""

    def __init__(self, reason: Reason, message: str) -> None:
        super().__init__(message)
        self.reason = reason.value


def grant(node: Node, request: wire.SourceRequest, now: datetime) -> wire.Source:
    """Source and credentials of the wish that `request` names. Raises Refused.

    Only for a replica of this very node, while it starts, or while it takes an adapter: a node that
    runs one tenant's work learns no other tenant's secret, and none without a wish.
    """
    if request.pull_id:
        return _pulled(node, request.pull_id, now)
    states = LIVE - {State.DRAINING} if request.adapter_id else COMING
    here = Q(node_id=node.id) | Q(members__node=node)
    wanted = Replica.objects.filter(here, id=request.replica_id, state__in=states)
    replica = wanted.select_related("endpoint__project__organization", "version").first()
    if replica is None:
        raise Refused(Reason.FETCH_FAILED, "nothing of this node's is to be fetched by that name")
    endpoint = replica.endpoint
    told = _Told(node, audit.Target("replica", replica.id), now)
    if not request.adapter_id:
        return told.source(endpoint.project, _Wish.of(endpoint, replica.version))
    for one in endpoint.adapters:
        if one["id"] == request.adapter_id:
            return told.source(endpoint.project, _Wish(model=one["path"], revision=one["revision"]))
    raise Refused(Reason.MODEL_NOT_FOUND, "the endpoint has no such adapter")


def _pulled(node: Node, pull_id: str, now: datetime) -> wire.Source:
    rows = PullNode.objects.filter(node_id=node.id, pull_id=pull_id, pull__cancelled_at=None)
    wanted = rows.exclude(state__in=pulls.OVER)
    row = wanted.select_related("pull__project__organization").first()
    if row is None:
        raise Refused(Reason.FETCH_FAILED, "nothing of this node's is to be fetched by that name")
    pull = row.pull
    wish = _Wish(pull.model, pull.revision, pull.source, pull.secret)
    return _Told(node, audit.Target("pull", pull.id), now).source(pull.project, wish)


@dataclass(frozen=True)
class _Wish:
    """What is to be fetched; `revision` is pinned where it can be."""

    model: str
    revision: str
    source: str = SourceKind.HUB
    secret: str = ""

    @classmethod
    def of(cls, endpoint: Endpoint, version: EndpointVersion) -> "_Wish":
        return cls(
            model=version.model,
            revision=sources.pinned(version, endpoint.pinned),
            source=version.source,
            secret=version.spec["secret"],
        )


class _Told:
    def __init__(self, node: Node, target: audit.Target, now: datetime) -> None:
        self._actor = audit.Actor("node", node.id, "certificate")
        self._target, self._now = target, now

    def source(self, project: Project, wish: _Wish) -> wire.Source:
        kind = SourceKind(wish.source)
        told = wire.Source(
            kind=kind,
            url="",
            model=wish.model,
            revision=wish.revision,
            project_id=project.id,
        )
        if kind is SourceKind.MIRROR:
            return replace(told, url=settings.MIRROR_URL, token=settings.MIRROR_TOKEN)
        if kind is SourceKind.HUB:
            value = self._secret(project, project_secrets.Kind.HUB, wish.secret)
            return replace(told, url=settings.HUB_URL, token=value.get("token", ""))
        if kind is SourceKind.S3:
            return self._s3(project, wish, told)
        if kind is SourceKind.UPLOAD:
            return replace(told, files=_uploaded(project, wish.model))
        raise Refused(Reason.MODEL_NOT_FOUND, f"a model of source {kind} is not fetched")

    def _s3(self, project: Project, wish: _Wish, told: wire.Source) -> wire.Source:
        value = self._secret(project, project_secrets.Kind.S3, wish.secret)
        try:
            # Once more: the operator may have struck a service off.
            url = project_secrets.s3_service(value.get("endpoint_url") or settings.S3_ENDPOINTS[0])
        except (Invalid, IndexError) as error:
            raise Refused(Reason.ACCESS_DENIED, str(error)) from error
        return replace(
            told,
            url=url,
            access_key_id=value.get("access_key_id", ""),
            secret_access_key=value.get("secret_access_key", ""),
            region=value.get("region", ""),
        )

    def _secret(self, project: Project, kind: str, name: str) -> dict[str, str]:
        """What the project gave to open it; empty: it asks as anybody would."""
        found = project_secrets.find(project, kind, name)
        if found is None:
            if name:
                message = f"the project's {kind} secret {name} was deleted"
                raise Refused(Reason.ACCESS_DENIED, message)
            return {}
        try:
            return project_secrets.deliver_secret(
                actor=self._actor, secret=found, target=self._target, now=self._now
            )
        except (sealing.SealBroken, KeyDestroyed):
            message = f"the project's {kind} secret {found.name} cannot be opened: set it anew"
            raise Refused(Reason.ACCESS_DENIED, message) from None


def uploaded_file(node: Node, upload_id: str, number: int) -> UploadFile:
    """A file of an upload that this node is to serve or to pull. Raises Refused."""
    here = Replica.objects.filter(
        node_id=node.id, state__in=COMING, endpoint__source=SourceKind.UPLOAD
    ).filter(endpoint__model=upload_id)
    pulled = PullNode.objects.filter(
        node_id=node.id, pull__cancelled_at=None, pull__model=upload_id
    ).exclude(state__in=pulls.OVER)
    projects = {*here.values_list("endpoint__project_id", flat=True)}
    projects |= {*pulled.values_list("pull__project_id", flat=True)}
    rows = UploadFile.objects.filter(upload_id=upload_id, number=number, verified=True)
    found = rows.filter(upload__project_id__in=projects).first()
    if found is None:
        raise Refused(Reason.MODEL_NOT_FOUND, "nothing of this node's is to be fetched there")
    return found


def _uploaded(project: Project, upload_id: str) -> list[wire.SourceFile]:
    upload = Upload.objects.filter(id=upload_id, project=project, finished_at__isnull=False)
    files = UploadFile.objects.filter(upload__in=upload).order_by("number")
    found = [
        wire.SourceFile(path=one.path, size_bytes=one.size_bytes, sha256=one.sha256)
        for one in files
    ]
    if not found:
        raise Refused(Reason.MODEL_NOT_FOUND, "the project has no complete upload of this id")
    return found
