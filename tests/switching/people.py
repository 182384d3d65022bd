"""An organization that has something of everything, made by the verbs that people use."""

import hashlib
import io
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

from billing.models import Account, Invoice
from billing.pricing import agreements, prices
from billing.pricing.terms import Commitment
from billing.spending import budgets
from compliance import audit
from compliance.log import subscriptions
from controlplane.batches import files
from controlplane.batches import services as batches
from controlplane.endpoints import adapters, aliases, egress, uploads, versions
from controlplane.endpoints import services as endpoints
from controlplane.tenancy import limits, notices, project_secrets, services
from controlplane.tenancy.models import ApiKey, Organization, Project, Role, User
from tests.billing import invoices
from tests.billing.events import MONTH
from tests.billing.invoices import END, NEXT, served
from tests.billing.test_invoicing import final
from tests.endpoints.world import World

ASKED = NEXT + timedelta(days=1)
WEIGHTS = {"config.json": b'{"architectures": []}', "model.safetensors": b"weights" * 1000}
HOOK = "canary-of-a-hook"
SECRET = "hf_canary_that_never_leaves"
BATCH = b'{"custom_id": "1", "method": "POST", "url": "/v1/chat/completions", "body": {}}\n'


@dataclass
class Acme:
    organization: Organization
    invoice: Invoice
    key: ApiKey
    secrets: tuple[str, ...]  # what may be in no bundle


def build(world: World) -> Acme:
    project, now = world.project, world.now
    organization = project.organization
    prices.publish_defaults(actor=audit.SYSTEM, now=MONTH)
    ada = _people(organization, now)
    who = audit.Actor("user", ada.id, "session")
    limits.update_organization(
        actor=who, organization=organization, now=now, requests_per_minute=900, concurrency=3
    )
    egress.allow(actor=who, organization=organization, allowed=["*.example.org:443"], now=now)
    other = services.create_project(actor=who, organization=organization, name="lab", now=now)
    policy = {"max_calls": 50, "calls_per_minute": {"warn": 5.0, "stop": 9.0}}
    limits.update_project(
        actor=who, project=project, now=now, output_tokens_per_minute=7, run_policy=policy
    )
    key, secret = _keys(who, project, other, now)
    project_secrets.create_secret(
        actor=who, project=project, kind="hub", name="default", value={"token": SECRET}, now=now
    )
    _serving(who, world, now)
    _budgets(who, organization, project, key, now)
    _rest(who, organization, project, key, now)
    return Acme(organization, _money(organization.account), key, (secret, SECRET, HOOK))


def _people(organization: Organization, now: datetime) -> User:
    made = {}
    for name, role in (("ada", Role.OWNER), ("bob", Role.DEVELOPER), ("eve", Role.BILLING)):
        made[name] = services.create_user(
            actor=audit.SYSTEM, email=f"{name}@acme.example", password="correct horse!", now=now
        )
        services.add_member(
            actor=audit.SYSTEM, organization=organization, user=made[name], role=role, now=now
        )
    return made["ada"]


def _keys(who: audit.Actor, project: Project, other: Project, now: datetime) -> tuple[ApiKey, str]:
    key, secret = services.issue_key(
        actor=who,
        project=project,
        name="Ada's laptop",
        scopes=["inference", "read"],
        now=now,
        expires_at=now + timedelta(days=900),
        allowed_models=["chat"],
        networks=["192.0.2.0/24"],
        priority=5,
        input_tokens_per_minute=1_000,
    )
    gone, _ = services.issue_key(actor=who, project=other, name="old", scopes=["read"], now=now)
    services.revoke_key(actor=who, key=gone, now=now)
    return key, secret


def _serving(who: audit.Actor, world: World, now: datetime) -> None:
    """Three endpoints, of which one is deleted; one has two versions, one weights of its own."""
    world.node()
    schedule = {"cron": "0 8 * * mon-fri", "time_zone": "Europe/Berlin", "duration_s": 3600}
    chat = world.endpoint(
        engine_args={"max_model_len": 4096, "max_loras": 2},
        secret="default",
        capabilities=["tools"],
        min_replicas=0,
        max_replicas=2,
        schedules=[schedule],
        keep_warm_cap={"seconds": 60, "time_zone": "Europe/Berlin"},
        queue_limit=9,
    )
    adapters.load(actor=who, endpoint=chat, name="poet", path="org/poet", now=now)
    changes = {"engine_args": {"max_model_len": 2048, "max_loras": 2}, "revision": "v2"}
    versions.change(actor=who, endpoint=chat, changes=changes, note="shorter", now=now)
    declared = [
        {"path": path, "size_bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        for path, content in WEIGHTS.items()
    ]
    upload = uploads.begin_upload(
        actor=who, project=world.project, name="mine", files=declared, now=now
    )
    for number, content in enumerate(WEIGHTS.values()):
        uploads.take_piece(
            actor=who,
            upload=upload,
            number=number,
            offset=0,
            body=io.BytesIO(content),
            now=now,
        )
    world.endpoint(name="own", source="upload", model=upload.id)
    endpoints.delete(actor=who, endpoint=world.endpoint(name="gone"), now=now)
    aliases.create_alias(
        actor=who,
        project=world.project,
        name="gpt-4o",
        targets=["chat:poet", "own"],
        fallback_on=["no_capacity"],
        now=now,
    )


def _budgets(
    who: audit.Actor,
    organization: Organization,
    project: Project,
    key: ApiKey,
    now: datetime,
) -> None:
    for subject, id, given in (
        (
            "organization",
            organization.id,
            {"unit": "nano_eur", "amount": 10**17, "window": "month"},
        ),
        ("key", key.id, {"unit": "tokens", "amount": 5, "window": "day", "hard": False}),
        ("agent", project.id, {"unit": "calls", "amount": 7, "window": "day"}),
        ("agent", project.id, {"unit": "tokens", "amount": 7, "window": "day", "agent": "poet"}),
    ):
        owner = budgets.Owner(organization.id, organization.region_code, subject, id)
        more: dict[str, Any] = given
        budgets.create(actor=who, owner=owner, time_zone="Europe/Berlin", now=now, **more)


def _rest(
    who: audit.Actor,
    organization: Organization,
    project: Project,
    key: ApiKey,
    now: datetime,
) -> None:
    upload = files.begin(actor=who, project=project, now=now)
    upload.write(BATCH)
    file = files.create(actor=who, upload=upload, filename="in.jsonl", purpose="batch", now=now)
    batches.create(
        actor=who,
        key=key,
        input_file_id=file.id,
        endpoint="/v1/chat/completions",
        completion_window="24h",
        now=now,
    )
    notices.tell(
        organization,
        subject="Maintenance",
        text="On Sunday",
        about=audit.Target("node", "node_x"),
        key="m",
        now=now,
    )
    subscriptions.subscribe(
        actor=who,
        owner=organization.id,
        kind="events",
        via="webhook",
        address=f"https://siem.acme.example/{HOOK}",
        now=now,
    )
    minimum = Commitment("", END, Decimal(10), note="from April on")
    account = organization.account_id
    agreements.agree(actor=who, account_id=account, term=minimum, now=now, log=organization.id)


def _money(account: Account) -> Invoice:
    profile = {"contact": "Eve", "email": "eve@acme.example", "buyer_reference": "PO 7"}
    invoices.customer(account, invoices.entity(), **profile)
    served(account, seconds_=36_000)
    return final(account)
