"""What is live of an organization, for its record of processing: which categories have anything in
them, where it is kept, who receives it, and how it is protected."""

import os
from collections.abc import Iterator
from typing import Any

from django.conf import settings
from django.db.models import QuerySet
from django.utils import timezone

from billing.models import Customer, Invoice, Payment
from compliance import audit
from compliance.log.models import LogSubscription
from compliance.privacy import records
from compliance.privacy.records import Live, Recipient
from controlplane.batches.models import Batch, File
from controlplane.endpoints.models import Endpoint, PlacementRecord, Pull, Quote, Upload
from controlplane.fleet import regions
from controlplane.fleet.models import Node, Pool, Region
from controlplane.residency import locations, stated
from controlplane.tenancy.models import ApiKey, Organization, ProjectSecret

EEA = frozenset({*regions.COUNTRIES, "IS", "LI", "NO"})


def register() -> None:
    records.register_live(live, scopes)


def scopes() -> Iterator[str]:
    return iter(Organization.objects.order_by("id").values_list("id", flat=True))


def live(scope: str) -> Live:
    if scope == audit.PLATFORM:
        return _operators()
    organization = Organization.objects.get(id=scope)
    kept = [
        Recipient(
            name=" ".join(part for part in (one.store, one.instance) if part),
            receives=one.content,
            country=one.country,
            operator=one.operator,
        )
        for one in locations.register(organization, timezone.now())
    ]
    return Live(
        name=organization.name,
        region=organization.region_code,
        categories=_categories(organization),
        places=_places(organization),
        recipients=tuple(kept),
        outside=tuple(one for one in kept if _outside(one.country)),
        measures=measures(),
    )


def _categories(organization: Organization) -> dict[str, tuple[str, ...]]:
    """By what is there now: what was switched off and has gone is in no record any more."""
    mine = Endpoint.objects.filter(project__organization=organization, deleted_at=None)
    of_project = {"project__organization": organization}
    images = any(mine.exclude(image=None).values_list("image", flat=True))
    adapters = any(mine.values_list("adapters", flat=True))
    found = {
        "people": ("people of the organization sign in",),
        "accounts": ("projects and notices of the organization",),
        "evidence": (
            "the organization's audit log",
            *_if(
                "its log is sent to others",
                LogSubscription.objects.filter(owner=organization.id, ended_at=None),
            ),
        ),
        "access": (
            *_if("API keys", ApiKey.objects.filter(**of_project)),
            *_if("secrets of sources", ProjectSecret.objects.filter(**of_project)),
        ),
        "usage": _if("endpoints are called", mine),
        "operation": (
            *_if("endpoints", mine),
            *(("images of its own",) if images else ()),
            *_if(
                "endpoints shared with others of the region",
                mine.filter(shared_at__isnull=False, unshared_at=None),
            ),
        ),
        "models": (
            *_if("weights that were brought", Upload.objects.filter(**of_project)),
            *(("adapters",) if adapters else ()),
            *_if("models wished onto nodes", Pull.objects.filter(**of_project)),
            *_if("quotes", Quote.objects.filter(**of_project)),
        ),
        "content": (
            *_if("files at rest, sealed", File.objects.filter(**of_project)),
            *_if("batches", Batch.objects.filter(**of_project)),
        ),
    }
    return {code: because for code, because in found.items() if because}


def _operators() -> Live:
    """What the operator decides himself."""
    found = {
        "people": ("people sign in",),
        "accounts": _if("customers", Customer.objects.all()) or ("organizations",),
        "invoicing": _if("invoices", Invoice.objects.all()),
        "payments": (
            *_if("payments", Payment.objects.all()),
            *(("Stripe collects",) if settings.STRIPE_API_KEY else ()),
        ),
        "usage": _if("endpoints are called", Endpoint.objects.all()),
        "machines": _if("nodes", Node.objects.all()),
        "evidence": ("the operator's audit log",),
    }
    sent = []
    if settings.STRIPE_API_KEY:
        said = stated.of("stripe", home=False)
        sent.append(Recipient("stripe", "payments and who owes them", said.country, said.operator))
    if settings.EMAIL_HOST:
        said = stated.of("mail", home=True)
        sent.append(Recipient("mail", "heads of logs", said.country, said.operator))
    if os.environ.get("STOA_BACKUP_DIR"):
        said = stated.of("backups", home=True)
        sent.append(Recipient("backups", "everything, encrypted", said.country, said.operator))
    regions = Region.objects.order_by("code").values_list("code", "country")
    return Live(
        name="operator",
        categories={code: because for code, because in found.items() if because},
        places=tuple(f"region {code} ({country})" for code, country in regions),
        recipients=tuple(sent),
        outside=tuple(one for one in sent if _outside(one.country)),
        measures=measures(),
    )


def _places(organization: Organization) -> tuple[str, ...]:
    """Its region, the pools that its endpoints are in, and where replicas stood."""
    home = Region.objects.filter(code=organization.region_code).first()
    pools = Pool.objects.filter(
        endpoints__project__organization=organization, endpoints__deleted_at=None
    )
    stood = PlacementRecord.objects.filter(organization_id=organization.id).order_by()
    return (
        f"region {organization.region_code} ({home.country if home else stated.NOT_STATED})",
        *(f"pool {name}" for name in sorted(set(pools.values_list("name", flat=True)))),
        *(f"served in {one}" for one in sorted(set(stood.values_list("region", flat=True)))),
    )


def measures() -> tuple[str, ...]:
    """As they are set here; what is absent is said to be absent."""
    backups = bool(os.environ.get("STOA_BACKUP_DIR"))
    return (
        f"TLS for people and programs: {'on' if settings.TLS else 'not set here (STOA_TLS)'}",
        "TLS with a certificate each between nodes, gateways and the control plane",
        f"personal values of events, files and secrets: AES-256-GCM, keys of: {settings.KMS}",
        "a key for each person and organization, which an erasure destroys",
        "roles of least right in the database; the running role cannot alter the log",
        "a signed log of what verbs do; passwords as Argon2",
        "prompts and answers are not stored, but for files and batches",
        f"backups: {'encrypted to a key that is elsewhere' if backups else 'off'}",
        "a second factor at sign-in: absent",
        "encryption of disks: not by Stoa, whoever runs the machines answers for it",
    )


def _if(words: str, rows: "QuerySet[Any]") -> tuple[str, ...]:
    return (words,) if rows.exists() else ()


def _outside(country: str) -> bool:
    """A country that is known and not of the EEA; what nobody stated is shown as that."""
    return country not in (stated.NOT_STATED, "") and country not in EEA
