"""Batches as people see them: how far they are, and to cancel one. Files are the gateway's."""

from typing import Any

from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework import serializers
from rest_framework.decorators import action
from rest_framework.request import Request
from rest_framework.response import Response

from controlplane.api.views import HouseViewSet
from controlplane.batches import access, services
from controlplane.batches.models import Batch
from controlplane.tenancy.access import Permission


class CountsView(serializers.Serializer[Any]):
    total = serializers.IntegerField()
    completed = serializers.IntegerField()
    failed = serializers.IntegerField()


class BatchView(serializers.ModelSerializer[Batch]):
    object = serializers.CharField(default="batch", read_only=True)
    project = serializers.CharField(source="project_id")
    key = serializers.CharField(source="key_id")
    request_counts = serializers.SerializerMethodField()
    waits_for = serializers.CharField(
        help_text="Why its requests do not run now, as a gateway's error code; empty: they run."
    )

    class Meta:
        model = Batch
        fields = (
            *("id", "object", "project", "key", "endpoint", "status", "request_counts"),
            *("waits_for", "errors", "input_file_id", "output_file_id", "error_file_id"),
            *("created_at", "expires_at", "in_progress_at", "finalizing_at", "completed_at"),
            *("failed_at", "expired_at", "cancelling_at", "cancelled_at"),
        )

    @extend_schema(responses=CountsView)
    def get_request_counts(self, batch: Batch) -> dict[str, int]:
        counted = self.context.get("counts", {}).get(batch.id) or services.counts([batch])[batch.id]
        return {
            "total": counted.total,
            "completed": counted.completed,
            "failed": counted.failed,
        }


class Batches(HouseViewSet):
    serializer_class = BatchView
    queryset = Batch.objects.none()

    @extend_schema(
        parameters=[OpenApiParameter("project", str, required=False)],
        responses=BatchView(many=True),
    )
    def list(self, request: Request) -> Response:
        rows = access.batches(self.principal)
        if wanted := request.query_params.get("project"):
            rows = rows.filter(project_id=wanted)
        found = self.paginate_queryset(rows) or []
        shown = BatchView(found, many=True, context={"counts": services.counts(found)})
        return self.get_paginated_response(shown.data)

    def retrieve(self, request: Request, pk: str) -> Response:
        return Response(BatchView(access.batch(self.principal, pk, Permission.READ)).data)

    @extend_schema(request=None, responses=BatchView)
    @action(detail=True, methods=["post"])
    def cancel(self, request: Request, pk: str) -> Response:
        batch = access.batch(self.principal, pk, Permission.MANAGE_ENDPOINTS)
        batch = services.cancel(actor=self.principal.actor, batch=batch, now=self.now)
        return Response(BatchView(batch).data)
