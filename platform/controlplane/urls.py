"""Composition: the API and the agents' door, the console for the rest."""

from django.urls import include, path

from controlplane.api import failures
from controlplane.api.health import healthz

urlpatterns = [
    path("healthz", healthz),
    path("api/v1/", include("controlplane.api.urls")),
    path("agent/v1/", include("controlplane.api.agent_urls")),
    path("", include("frontend.urls")),
]

handler400 = failures.bad_request
handler404 = failures.not_found
handler500 = failures.server_error
