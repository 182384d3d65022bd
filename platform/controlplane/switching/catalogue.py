"""What an organization takes along, and what it does not and why: the one list of both.

The order is that in which things are taken over: what is named comes before what names it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from django.db.models import Model, Q, QuerySet

from billing.invoices import profiles
from billing.models import (
    Account,
    Budget,
    CreditGrant,
    Customer,
    DebitMandate,
    Invoice,
    Payment,
    Price,
    Subject,
    Term,
)
from compliance.log.models import LogSubscription
from controlplane.batches.models import Batch, File
from controlplane.endpoints import version_spec
from controlplane.endpoints.models import (
    Alias,
    Endpoint,
    EndpointVersion,
    ModelFacts,
    Pull,
    Quote,
    Replica,
    Rollout,
    ServingInterval,
    Start,
    Upload,
    UploadFile,
)
from controlplane.fleet.models import Pool
from controlplane.switching.resources import Resource
from controlplane.tenancy import limits
from controlplane.tenancy.datasets import INVOICES, METERING
from controlplane.tenancy.models import (
    ApiKey,
    Membership,
    Notice,
    Organization,
    Project,
    ProjectSecret,
)

FORMAT = "stoa-switching-1"
DATASETS = ("audit_events", *METERING, *INVOICES)

_HISTORY = "what happened is kept in the archived bundle, and not made to have happened again"
_CONTRACT = "what was agreed with the former operator does not bind another"


@dataclass(frozen=True)
class Category:
    """Of the list of exportable data and digital assets (Data Act, Art. 25(2)(e)).

    Its files: those of `resources` and `datasets`, and what lies below the folders `documents`.
    """

    name: str
    title: str
    resources: tuple[str, ...] = ()
    datasets: tuple[str, ...] = ()
    documents: tuple[str, ...] = ()


@dataclass(frozen=True)
class Excluded:
    """Art. 25(2)(f): what is not exported. `reason`: not_kept, security, internal, others."""

    name: str
    reason: str
    words: str


def _by(model: type[Model], path: str) -> Callable[[Organization], "QuerySet[Any]"]:
    """The rows of `model` whose `path` is the organization."""
    return lambda organization: model._default_manager.filter(**{path: organization})


def _of_account(model: type[Model]) -> Callable[[Organization], "QuerySet[Any]"]:
    return lambda organization: model._default_manager.filter(account=organization.account_id)


def _budgets(organization: Organization) -> "QuerySet[Budget]":
    """Those that somebody set: what an account can pay, and a run policy's calls, are derived."""
    rows = Budget.objects.filter(organization_id=organization.id, deleted_at=None)
    return rows.filter(by_billing=False).exclude(subject=Subject.ROOT)


def _pools(organization: Organization) -> "QuerySet[Pool]":
    used = Endpoint.objects.filter(project__organization=organization).values("pool_id")
    return Pool.objects.filter(Q(organization=organization) | Q(id__in=used))


_PROJECT, _ENDPOINT = "project__organization", "endpoint__project__organization"

RESOURCES = (
    Resource(
        "organization",
        "the organization, its limits and what its containers may reach",
        Organization,
        lambda organization: Organization.objects.filter(id=organization.id),
        ("id", "name", "region_code", *limits.RATES, "egress", "created_at"),
        personal=("name",),
    ),
    Resource(
        "billing_profile",
        "who owes its invoices, and on what terms",
        Customer,
        _of_account(Customer),
        ("id", *profiles.PROFILE, "mode", "credit_limit", "created_at", "updated_at"),
        personal=(
            *("legal_name", "street", "extra", "registration", "contact", "email", "vat_id"),
            *("electronic_address", "buyer_reference", "proof"),
        ),
    ),
    Resource(
        "members",
        "people and their roles",
        Membership,
        _by(Membership, "organization"),
        ("id", "user_id", "user__email", "role", "created_at"),
        personal=("user__email",),
    ),
    Resource(
        "projects",
        "projects, their limits and run policies",
        Project,
        _by(Project, "organization"),
        ("id", "name", *limits.RATES, "run_policy", "created_at"),
        personal=("name",),
    ),
    Resource(
        "api_keys",
        "API keys: what each may do; never a secret or a hash of one",
        ApiKey,
        _by(ApiKey, _PROJECT),
        (
            *("id", "project_id", "name", "prefix", "scopes", "allowed_models", "networks"),
            *("priority", *limits.RATES, "expires_at", "revoked_at", "created_at", "created_by"),
        ),
        personal=("name",),
    ),
    Resource(
        "project_secrets",
        "what opens its sources and registries: names, never values",
        ProjectSecret,
        _by(ProjectSecret, _PROJECT),
        ("id", "project_id", "kind", "name", "created_at", "changed_at"),
        personal=("name",),
        left="values leave us only to nodes that fetch: enter them anew",
    ),
    Resource(
        "uploads",
        "models of its own: uploaded weights and adapters",
        Upload,
        _by(Upload, _PROJECT),
        ("id", "project_id", "name", "created_at", "finished_at"),
        personal=("name",),
    ),
    Resource(
        "upload_files",
        "the files of uploaded models, with their SHA-256",
        UploadFile,
        _by(UploadFile, "upload__project__organization"),
        ("upload_id", "number", "path", "size_bytes", "sha256", "received_bytes", "verified"),
        personal=("path",),
    ),
    Resource(
        "model_facts",
        "the model registry: what the files of models of its own say",
        ModelFacts,
        _by(ModelFacts, _PROJECT),
        ("id", "project_id", "source", "model", "revision", "config", "tensors", "seen_at"),
        personal=("model",),
        left="read anew from the files when a node has them",
    ),
    Resource(
        "pools",
        "pools that its endpoints run in",
        Pool,
        _pools,
        ("id", "region_id", "name", "organization_id", "created_at"),
    ),
    Resource(
        "endpoints",
        "endpoints: model, engine, image, adapters, scaling, schedules, queue",
        Endpoint,
        _by(Endpoint, _PROJECT),
        (
            *("id", "project_id", "pool_id", "region_code", "name", *version_spec.FIELDS),
            *("adapters", "min_replicas", "max_replicas", "scale_to_zero_timeout_s"),
            *("ttft_target_s", "keep_alive", "schedules", "bursts", "keep_warm_cap"),
            *("queue_limit", "queue_s", "pinned", "generation", "created_at", "stopped_at"),
            *("deleted_at", "shared_at", "unshared_at"),
        ),
        personal=("name", "model", "secret", "engine_args", "image", "adapters", "pinned"),
    ),
    Resource(
        "endpoint_versions",
        "every version of each endpoint's spec",
        EndpointVersion,
        _by(EndpointVersion, _ENDPOINT),
        ("id", "endpoint_id", "number", "spec", "note", "created_at", "created_by"),
        personal=("spec", "note"),
    ),
    Resource(
        "aliases",
        "other names for endpoints",
        Alias,
        _by(Alias, _PROJECT),
        ("id", "project_id", "name", "targets", "fallback_on", "created_at"),
        personal=("name", "targets"),
    ),
    Resource(
        "budgets",
        "budgets of the organization, its projects, keys and agents",
        Budget,
        _budgets,
        (
            *("id", "subject", "subject_id", "name", "unit", "amount", "allowance", "window"),
            *("time_zone", "hard", "created_at"),
        ),
        personal=("name",),
    ),
    Resource(
        "log_subscriptions",
        "who is sent its log: the host, never an address or a secret",
        LogSubscription,
        lambda organization: LogSubscription.objects.filter(owner=organization.id),
        ("id", "kind", "via", "host", "form", "created_at", "ended_at"),
        personal=("host",),
        left="addresses and secrets are sealed: subscribe anew",
    ),
    Resource(
        "files",
        "files for batches and their results",
        File,
        lambda organization: File.objects.filter(project__organization=organization, complete=True),
        ("id", "project_id", "purpose", "filename", "bytes", "created_at", "expires_at"),
        personal=("filename",),
        left="the content is in documents/files: upload what is needed still",
    ),
    Resource(
        "batches",
        "batches and what became of them",
        Batch,
        _by(Batch, _PROJECT),
        (
            *("id", "project_id", "key_id", "endpoint", "completion_window", "metadata"),
            *("input_file_id", "output_file_id", "error_file_id", "status", "total", "completed"),
            *("failed", "created_at", "completed_at"),
        ),
        personal=("metadata",),
        left=_HISTORY,
    ),
    Resource(
        "notices",
        "what the operator told it",
        Notice,
        _by(Notice, "organization"),
        ("id", "subject", "text", "about_type", "about_id", "created_at", "closed_at"),
        personal=("subject", "text"),
        left=_HISTORY,
    ),
    Resource(
        "quotes",
        "what was quoted to it",
        Quote,
        _by(Quote, _PROJECT),
        (
            *("id", "project_id", "source", "model", "revision", "engine_version", "body"),
            *("answer", "created_at"),
        ),
        personal=("model",),
        left=_CONTRACT,
    ),
    Resource(
        "pulls",
        "models that were brought to nodes beforehand",
        Pull,
        _by(Pull, _PROJECT),
        (
            *("id", "project_id", "pool_id", "source", "model", "revision", "created_at"),
            "cancelled_at",
        ),
        personal=("model",),
        left=_HISTORY,
    ),
    Resource(
        "rollouts",
        "how each version was rolled out",
        Rollout,
        _by(Rollout, _ENDPOINT),
        (
            *("id", "endpoint_id", "from_number", "to_number", "plan", "state", "reason"),
            *("health", "note", "started_at", "started_by", "ended_at"),
        ),
        personal=("note",),
        left=_HISTORY,
    ),
    Resource(
        "replicas",
        "engines that ran for it",
        Replica,
        _by(Replica, _ENDPOINT),
        (
            *("id", "endpoint_id", "generation", "state", "reason", "created_at"),
            *("released_at", "start_tier", "phase_seconds"),
        ),
        left=_HISTORY,
    ),
    Resource(
        "serving_intervals",
        "when each replica served",
        ServingInterval,
        _by(ServingInterval, f"replica__{_ENDPOINT}"),
        ("id", "replica_id", "started_at", "ended_at", "served_s", "metered_s", "returned_s"),
        left=_HISTORY,
    ),
    Resource(
        "starts",
        "how long its starts took, and what was promised",
        Start,
        _by(Start, _ENDPOINT),
        (
            *("id", "endpoint_id", "replica_id", "tier", "ready", "reason", "asked_at"),
            *("ended_at", "total_s", "phases", "target_s", "missed"),
        ),
        left=_HISTORY,
    ),
    Resource(
        "account",
        "the account that its usage is billed to",
        Account,
        lambda organization: Account.objects.filter(id=organization.account_id),
        ("id", "name", "currency", "created_at"),
        personal=("name",),
        left="it is given another one",
    ),
    Resource(
        "prices",
        "prices for it alone",
        Price,
        _of_account(Price),
        (
            *("id", "meter", "device_kind", "currency", "amount", "valid_from", "valid_to"),
            "created_at",
        ),
        left=_CONTRACT,
    ),
    Resource(
        "agreements",
        "allowances, minimums and tiers that were agreed with it",
        Term,
        _of_account(Term),
        (
            *("id", "kind", "meter", "device_kind", "quantity", "discount", "amount", "currency"),
            *("note", "valid_from", "created_at"),
        ),
        personal=("note",),
        left=_CONTRACT,
    ),
    Resource(
        "payments",
        "what it paid",
        Payment,
        _of_account(Payment),
        (
            *("id", "amount", "currency", "method", "received_at", "booked_at", "reference"),
            *("payer_iban", "back"),
        ),
        personal=("reference", "payer_iban"),
        left=_HISTORY,
    ),
    Resource(
        "credit",
        "credit that it was given or bought",
        CreditGrant,
        _of_account(CreditGrant),
        (
            *("id", "kind", "amount", "left", "currency", "granted_at", "expires_at", "note"),
            *("treatment", "tax", "invoice_id"),
        ),
        personal=("note",),
        left="what is left of bought credit is paid back, not carried over",
    ),
    Resource(
        "debit_mandates",
        "mandates for direct debits",
        DebitMandate,
        _of_account(DebitMandate),
        (
            *("id", "reference", "signed_on", "debtor_name", "debtor_iban", "scheme"),
            *("recurrent", "last_collected", "revoked_on", "created_at"),
        ),
        personal=("reference", "debtor_name", "debtor_iban"),
        left="a mandate names its creditor: sign one for the new operator",
    ),
    Resource(
        "draft_invoices",
        "what the running month comes to so far",
        Invoice,
        lambda organization: Invoice.objects.filter(account=organization.account_id, final_at=None),
        (
            *("id", "kind", "state", "period_start", "period_end", "currency", "net", "vat"),
            *("gross", "drafted_at"),
        ),
        left=_HISTORY,
    ),
)
BY_NAME = {one.name: one for one in RESOURCES}
LEFT = {one.name: one.left for one in RESOURCES if one.left}

CATEGORIES = (
    Category("configuration", "Organization and settings", ("organization", "projects")),
    Category("people", "People and their roles", ("members",)),
    Category("api_keys", "API keys, as metadata", ("api_keys",)),
    Category("secrets", "Names of what the organization brought", ("project_secrets",)),
    Category(
        "deployments",
        "Endpoints with their versions, scaling, schedules, images, adapters; aliases; pools",
        ("endpoints", "endpoint_versions", "aliases", "pools", "rollouts", "pulls", "quotes"),
    ),
    Category(
        "models",
        "Model registry, uploaded weights and adapters",
        ("model_facts", "uploads", "upload_files"),
    ),
    Category("budgets", "Budgets", ("budgets",)),
    Category("content", "Files and batches", ("files", "batches"), (), ("documents/files/",)),
    Category("notices", "Notices and log subscriptions", ("notices", "log_subscriptions")),
    Category(
        "usage",
        "Usage and metering, with what nodes signed",
        ("replicas", "serving_intervals", "starts"),
        METERING,
        ("documents/recompute/",),
    ),
    Category(
        "billing",
        "Invoices in every form, payments, credit, prices and terms",
        (
            *("billing_profile", "account", "prices", "agreements", "payments", "credit"),
            *("debit_mandates", "draft_invoices"),
        ),
        INVOICES,
        ("documents/invoices/",),
    ),
    Category("audit_log", "Audit log with its proofs", (), ("audit_events",), ("log/",)),
)

EXCLUDED = (
    Excluded("prompts and answers", "not_kept", "requests to endpoints are kept nowhere"),
    Excluded(
        "caches of engines", "not_kept", "they live in a device's memory and end with the engine"
    ),
    Excluded(
        "secrets of API keys, values of project secrets, passwords",
        "security",
        "whoever reads a bundle could use them; the organization has them, or makes new ones",
    ),
    Excluded(
        "addresses and secrets of log subscriptions",
        "security",
        "they are sealed and shown once; a full bundle has the events in which they were told",
    ),
    Excluded(
        "public models, by name",
        "others",
        "weights from a hub are its publishers': the name and revision are in the bundle",
    ),
    Excluded(
        "predictions, placement, prices of cost, margins",
        "internal",
        "trade secrets of how the service is run; they say nothing of what the customer did",
    ),
    Excluded(
        "nodes, networks and findings of the operator's fleet",
        "security",
        "they are the operator's, and serve other customers as well",
    ),
    Excluded(
        "shared books and the ledger of the operator",
        "internal",
        "its entries of the account are in invoices, payments and credit",
    ),
)
