"""/api/v1: the management API."""

from django.urls import include, path, register_converter
from django.urls.converters import StringConverter
from drf_spectacular.views import SpectacularAPIView
from rest_framework.routers import SimpleRouter

from controlplane.api import (
    adapter_views,
    alias_views,
    audit_views,
    bank_views,
    batch_views,
    books_views,
    budget_views,
    control_views,
    cost_export_views,
    cost_views,
    credit_views,
    data_key_views,
    data_request_views,
    egress_views,
    endpoint_views,
    engine_views,
    evidence_views,
    fleet_views,
    health_views,
    invoice_views,
    keeping_views,
    log_subscription_views,
    margin_views,
    metering_views,
    node_event_views,
    notice_views,
    payment_views,
    price_views,
    privacy_views,
    pull_views,
    quote_views,
    residency_views,
    rollout_views,
    run_views,
    secret_views,
    start_views,
    streams,
    stripe_webhook,
    switching_views,
    tenancy_views,
    upload_views,
    version_views,
    views,
)


class IdConverter(StringConverter):
    """What is no id of ours reaches no view, and no database."""

    regex = views.ID


register_converter(IdConverter, "id")

router = SimpleRouter(trailing_slash=False)
for name, view in (
    ("organizations", tenancy_views.Organizations),
    ("projects", tenancy_views.Projects),
    ("members", tenancy_views.Members),
    ("notices", notice_views.Notices),
    ("api-keys", tenancy_views.ApiKeys),
    ("model-uploads", upload_views.Uploads),
    ("model-pulls", pull_views.Pulls),
    ("secrets", secret_views.Secrets),
    ("aliases", alias_views.Aliases),
    ("batches", batch_views.Batches),
    ("quotes", quote_views.Quotes),
    ("endpoints", endpoint_views.Endpoints),
    ("replicas", endpoint_views.Replicas),
    ("versions", version_views.Versions),
    ("pools", fleet_views.Pools),
    ("regions", fleet_views.Regions),
    ("engine-versions", engine_views.EngineVersions),
    ("nodes", fleet_views.Nodes),
    ("agent-rollouts", rollout_views.AgentRollouts),
    ("maintenances", keeping_views.Maintenances),
    ("decommissions", keeping_views.Decommissions),
    ("enrollment-tokens", fleet_views.EnrollmentTokens),
    ("costs", cost_views.Costs),
    ("cost-exports", cost_export_views.CostExports),
    ("margin", margin_views.Margins),
    ("owned-costs", margin_views.OwnedCosts),
    ("usage", cost_views.Usage),
    ("meter-findings", metering_views.MeterFindings),
    ("prices", price_views.Prices),
    ("budgets", budget_views.Budgets),
    ("payment-methods", payment_views.PaymentMethods),
    ("credits", credit_views.Credits),
    ("payments", credit_views.Payments),
    ("bank-statements", bank_views.BankStatements),
    ("bank-entries", bank_views.BankEntries),
    ("collection-files", bank_views.CollectionFiles),
    ("books", books_views.Books),
    ("invoices", invoice_views.Invoices),
    ("run-usage", run_views.RunUsage),
    ("audit-events", evidence_views.AuditEvents),
    ("exports", evidence_views.Exports),
    ("switching-imports", switching_views.SwitchingImports),
    ("controls", control_views.Controls),
    ("data-keys", data_key_views.DataKeys),
    ("key-destructions", data_key_views.KeyDestructions),
    ("log-subscriptions", log_subscription_views.LogSubscriptions),
    ("subject-requests", data_request_views.SubjectRequests),
    ("erasures", data_request_views.Erasures),
    ("retention-rules", privacy_views.RetentionRules),
    ("retention-runs", privacy_views.RetentionRuns),
    ("legal-holds", privacy_views.LegalHolds),
    ("processing-records", privacy_views.ProcessingRecords),
):
    router.register(name, view, basename=name)

_adapters = adapter_views.Adapters

urlpatterns = [
    path(
        "endpoints/<str:pk>/adapters",
        _adapters.as_view({"get": "list", "post": "create"}),
        name="endpoint-adapters",
    ),
    path(
        "endpoints/<str:pk>/adapters/<str:name>",
        _adapters.as_view({"get": "retrieve", "delete": "destroy"}),
        name="endpoint-adapter",
    ),
    path("nodes/<id:pk>/findings", health_views.Findings.as_view({"get": "list"})),
    path(
        "pools/<id:pk>/health-policy",
        health_views.HealthPolicies.as_view({"get": "retrieve", "put": "update"}),
    ),
    path(
        "organizations/<id:pk>/egress",
        egress_views.Egress.as_view({"get": "retrieve", "put": "update"}),
        name="organization-egress",
    ),
    path(
        "invoices/<id:pk>/collections",
        payment_views.Collections.as_view({"get": "list", "post": "create"}),
        name="invoice-collections",
    ),
    path(
        "invoices/<id:pk>/payment-page",
        payment_views.Pages.as_view({"post": "create"}),
        name="invoice-payment-page",
    ),
    path(
        "organizations/<id:pk>/billing-profile",
        invoice_views.BillingProfiles.as_view({"get": "retrieve", "put": "update"}),
        name="billing-profile",
    ),
    path("data-locations", residency_views.Residency.as_view({"get": "locations"})),
    path("transfers", residency_views.Residency.as_view({"get": "transfers"})),
    path(
        "receipts/<str:pk>", residency_views.Residency.as_view({"get": "receipt"}), name="receipt"
    ),
    path(
        "processing-records/current",
        privacy_views.ProcessingRecords.as_view({"get": "current"}),
        name="processing-record",
    ),
    path(
        "processing-contacts/<str:part>",
        privacy_views.ProcessingRecords.as_view({"put": "contact"}),
        name="processing-contact",
    ),
    path("audit/checkpoint", audit_views.Audit.as_view({"get": "checkpoint"})),
    path("audit/inclusion", audit_views.Audit.as_view({"get": "inclusion"})),
    path("audit/consistency", audit_views.Audit.as_view({"get": "consistency"})),
    path("archive/read", invoice_views.Archive.as_view({"post": "read"}), name="archive-read"),
    path("archive/due", invoice_views.Archive.as_view({"get": "list"}), name="archive-due"),
    path(
        "datev-accounts",
        books_views.DatevNumbers.as_view({"get": "retrieve", "put": "update"}),
        name="datev-accounts",
    ),
    path(
        "entity",
        invoice_views.EntitySettings.as_view({"get": "retrieve", "put": "update"}),
        name="entity",
    ),
    path("stripe/webhook", stripe_webhook.receive, name="stripe-webhook"),
    path("endpoints/<str:pk>/events", streams.endpoint_events, name="endpoint-events"),
    path("endpoints/<id:pk>/starts", start_views.EndpointStarts.as_view({"get": "list"})),
    path("nodes/<id:pk>/events", node_event_views.NodeEvents.as_view({"get": "list"})),
    path("replicas/<str:pk>/logs", streams.replica_logs, name="replica-logs"),
    path("schema", SpectacularAPIView.as_view(), name="schema"),
    path("", include(router.urls)),
]
