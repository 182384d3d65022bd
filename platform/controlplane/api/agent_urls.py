"""The agents' door, under /agent/v1/. Messages and signatures: controlplane.fleet.wire."""

from django.urls import path

from controlplane.api import agent_views

urlpatterns = [
    path("authority/<str:sha256>", agent_views.authority_file),
    path("join", agent_views.join_script),
    path("bundle", agent_views.agent_bundle),
    path("bundle/<str:sha256>", agent_views.agent_release),
    path("enroll", agent_views.enroll),
    path("renew", agent_views.renew),
    path("desired", agent_views.desired),
    path("report", agent_views.report),
    path("logs", agent_views.logs),
    path("erased", agent_views.erased),
    path("source", agent_views.source),
    path("secrets", agent_views.secrets),
    path("uploads/<str:upload_id>/<int:number>", agent_views.upload),
]
