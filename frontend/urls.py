"""The console's pages, each with the name that templates call it by."""

from django.urls import path

from frontend import (
    budget_views,
    cost_views,
    create_views,
    endpoint_views,
    evidence_views,
    key_views,
    node_views,
    session_views,
)

app_name = "frontend"
urlpatterns = [
    path("", session_views.home, name="home"),
    path("sign-in", session_views.SignIn.as_view(), name="sign-in"),
    path("sign-out", session_views.SignOut.as_view(), name="sign-out"),
    path("switch", session_views.switch, name="switch"),
    path("endpoints", endpoint_views.index, name="endpoints"),
    path("endpoints/new", create_views.create, name="endpoint-new"),
    path("endpoints/<str:id>", endpoint_views.detail, name="endpoint"),
    path("endpoints/<str:id>/live", endpoint_views.live, name="endpoint-live"),
    path("endpoints/<str:id>/log", endpoint_views.log, name="endpoint-log"),
    path("endpoints/<str:id>/start", endpoint_views.start, name="endpoint-start"),
    path("endpoints/<str:id>/stop", endpoint_views.stop, name="endpoint-stop"),
    path("endpoints/<str:id>/delete", endpoint_views.delete, name="endpoint-delete"),
    path("keys", key_views.index, name="keys"),
    path("keys/<str:id>/revoke", key_views.revoke, name="key-revoke"),
    path("costs", cost_views.index, name="costs"),
    path("budgets", budget_views.index, name="budgets"),
    path("budgets/<str:id>/delete", budget_views.delete, name="budget-delete"),
    path("evidence", evidence_views.index, name="evidence"),
    path("evidence/exports", evidence_views.exports_table, name="exports"),
    path("nodes", node_views.index, name="nodes"),
    path("nodes/enrol", node_views.enrol, name="node-enrol"),
    path("nodes/<str:id>/<str:verb>", node_views.act, name="node-act"),
]
