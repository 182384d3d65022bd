"""Three people and a key: Alice owns an organization, Bob bills for it, Mallory has her own."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from django.test import Client
from django.utils import timezone

from billing.models import UsageInbox
from compliance import audit
from controlplane.batches import files
from controlplane.batches import services as batches
from controlplane.batches.models import Batch
from controlplane.endpoints import aliases
from controlplane.endpoints import services as endpoints
from controlplane.endpoints.models import Alias, Endpoint, Replica
from controlplane.endpoints.services import EndpointSpec
from controlplane.endpoints.states import Reason, State
from controlplane.fleet.models import Device, Node, Pool
from controlplane.tenancy import services
from controlplane.tenancy.models import ApiKey, Organization, Project, Role, User

NOW = datetime(2026, 11, 2, 9, 0, tzinfo=UTC)
PASSWORD = "correct horse battery"


@dataclass
class House:
    """An organization with everything that a route can name."""

    owner: User
    billing: User
    organization: Organization
    project: Project
    key_id: str
    secret: str
    reader: str  # the secret of a key with scope `read`
    pool: Pool
    node: Node
    endpoint: Endpoint
    replica: Replica
    membership_id: str
    alias: Alias
    batch_id: str


def user(email: str, *, operator: bool = False) -> User:
    return services.create_user(
        actor=audit.SYSTEM, email=email, password=PASSWORD, is_operator=operator, now=NOW
    )


def _node(pool: Pool, name: str) -> Node:
    node = Node.objects.create(
        pool=pool,
        name=name,
        certificate_sha256=name.ljust(64, "0"),
        certificate_expires_at=NOW,
        created_at=NOW,
    )
    for index in range(2):
        Device.objects.create(node=node, index=index, kind="cpu", name="CPU", memory_bytes=2**33)
    return node


def _batch(key: ApiKey) -> Batch:
    upload = files.begin(actor=audit.SYSTEM, project=key.project, now=NOW)
    upload.write(b"{}\n")
    file = files.create(
        actor=audit.SYSTEM, upload=upload, filename="in.jsonl", purpose="batch", now=NOW
    )
    return batches.create(
        actor=audit.SYSTEM,
        key=key,
        input_file_id=file.id,
        endpoint="/v1/chat/completions",
        completion_window="24h",
        now=NOW,
    )


def build(name: str) -> House:
    owner, billing = user(f"owner@{name}.example"), user(f"billing@{name}.example")
    organization = services.create_organization(
        actor=audit.SYSTEM, name=name, region_code="eu-de-1", owner=owner, now=NOW
    )
    member = services.add_member(
        actor=audit.SYSTEM, organization=organization, user=billing, role=Role.BILLING, now=NOW
    )
    project = services.create_project(
        actor=audit.SYSTEM, organization=organization, name="default", now=NOW
    )
    new: dict[str, Any] = {"actor": audit.SYSTEM, "project": project, "now": NOW}
    key, secret = services.issue_key(name="key", scopes=["manage", "read", "inference"], **new)
    _, reader = services.issue_key(name="reader", scopes=["read"], **new)
    pool = Pool.objects.create(
        region_id="eu-de-1", name=name, organization=organization, created_at=NOW
    )
    node = _node(pool, name)
    spec = EndpointSpec(name="chat", model="/models/tiny", device_kind="cpu")
    endpoint = endpoints.create(actor=audit.SYSTEM, project=project, spec=spec, now=NOW)
    replica = Replica.objects.create(
        endpoint=endpoint,
        generation=1,
        node=node,
        state=State.STARTING,
        reason=Reason.NODE_REPORT,
        state_at=NOW,
        created_at=NOW,
    )
    return House(
        owner=owner,
        billing=billing,
        organization=organization,
        project=project,
        key_id=key.id,
        secret=secret,
        reader=reader,
        pool=pool,
        node=node,
        endpoint=endpoint,
        replica=replica,
        membership_id=member.id,
        alias=aliases.create_alias(
            actor=audit.SYSTEM, project=project, name="gpt-4o", targets=["chat"], now=NOW
        ),
        batch_id=_batch(key).id,
    )


def signed_in(user: User) -> Client:
    client = Client()
    client.force_login(user)
    return client


def with_key(secret: str) -> Client:
    return Client(headers={"authorization": f"Bearer {secret}"})


def post(client: Client, path: str, body: Any = None, **headers: str) -> Any:
    return client.post(
        f"/api/v1{path}", data=body, content_type="application/json", headers=headers
    )


def delivered(house: House, **fields: Any) -> None:
    """One request of its key that has just ended, as a gateway delivers it."""
    now = timezone.now()
    request_id = fields.pop("request_id", f"req-{UsageInbox.objects.count()}")
    replica_id = fields.pop("replica_id", house.replica.id)
    UsageInbox.objects.create(
        request_id=request_id,
        gateway_id="gw-1",
        key_id=house.key_id,
        project_id=house.project.id,
        endpoint_id=house.endpoint.id,
        replica_id=replica_id,
        operation="chat.completions",
        opened_at=now - timedelta(seconds=2),
        closed_at=now - timedelta(seconds=1),
        status=200,
        finish="complete",
        counted_by="engine",
        **fields,
    )
