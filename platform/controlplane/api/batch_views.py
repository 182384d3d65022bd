"""Batches as people see them: how far they are, and to cancel one. Files are the gateway's."""

from typing import Any

from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework import serializers
from rest_framework.decorators import action
from rest_framework.request import Request
from rest_framework.response import Response

from controlplane.api.views import HouseViewSet
from controlplane.batches import access, forecasting, services
from controlplane.batches.models import Batch
from controlplane.tenancy.access import Permission


class CountsView(serializers.Serializer[Any]):
    total = serializers.IntegerField()
    completed = serializers.IntegerField()
    failed = serializers.IntegerField()


class BatchSpanView(serializers.Serializer[Any]):
    p50 = serializers.FloatField()
    p95 = serializers.FloatField()


class BatchCostView(serializers.Serializer[Any]):
    """Exact, as text."""

    currency = serializers.CharField()
    by = serializers.CharField(required=False, help_text="device_seconds or tokens")
    p50 = serializers.CharField()
    p95 = serializers.CharField(required=False)


class BatchPredictedView(serializers.Serializer[Any]):
    """Before it runs, with answers as long as they may get; `missing` alone where nothing can be
    said."""

    missing = serializers.CharField(required=False, help_text="Why nothing is predicted.")
    runtime_s = BatchSpanView(required=False)
    tokens_per_second = serializers.FloatField(required=False)
    prompt_tokens = serializers.IntegerField(required=False)
    output_tokens = serializers.IntegerField(required=False)
    devices = serializers.IntegerField(required=False)
    cost = BatchCostView(required=False, allow_null=True)


class BatchCanaryView(serializers.Serializer[Any]):
    """What its first minute of work says of the whole."""

    seconds = serializers.FloatField()
    requests = serializers.IntegerField()
    prompt_tokens = serializers.IntegerField()
    output_tokens = serializers.IntegerField()
    runtime_s = BatchSpanView()
    slower = serializers.FloatField(
        allow_null=True, help_text="Than predicted for such requests; null: nothing was."
    )
    move = serializers.BooleanField(
        allow_null=True, help_text="More than 25 % off: another device may be better."
    )
    devices = serializers.IntegerField()
    cost = BatchCostView(allow_null=True)


class BatchActualView(serializers.Serializer[Any]):
    runtime_s = serializers.FloatField(help_text="Seconds in which any of its requests ran.")
    requests = serializers.IntegerField()
    prompt_tokens = serializers.IntegerField()
    output_tokens = serializers.IntegerField()
    cost = BatchCostView(allow_null=True)


class BatchPartView(serializers.Serializer[Any]):
    model = serializers.CharField()
    requests = serializers.IntegerField()
    predicted = BatchPredictedView(allow_null=True)
    canary = BatchCanaryView(allow_null=True)
    actual = BatchActualView(allow_null=True)


class BatchForecastView(serializers.Serializer[Any]):
    """Seconds of work, without waiting for others or for a start; the newest that is known."""

    runtime_s = BatchSpanView(allow_null=True)
    cost = BatchCostView(allow_null=True)
    move = serializers.BooleanField()
    models = BatchPartView(many=True)


class BatchView(serializers.ModelSerializer[Batch]):
    object = serializers.CharField(default="batch", read_only=True)
    project = serializers.CharField(source="project_id")
    key = serializers.CharField(source="key_id")
    request_counts = serializers.SerializerMethodField()
    forecast = serializers.SerializerMethodField()
    waits_for = serializers.CharField(
        help_text="Why its requests do not run now, as a gateway's error code; empty: they run."
    )

    class Meta:
        model = Batch
        fields = (
            *("id", "object", "project", "key", "endpoint", "status", "request_counts"),
            "forecast",
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

    @extend_schema(responses=BatchForecastView)
    def get_forecast(self, batch: Batch) -> dict[str, Any] | None:
        forecasts = self.context.get("forecasts") or forecasting.shown([batch])
        found: dict[str, Any] | None = forecasts[batch.id]
        return found


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
        context = {"counts": services.counts(found), "forecasts": forecasting.shown(found)}
        shown = BatchView(found, many=True, context=context)
        return self.get_paginated_response(shown.data)

    def retrieve(self, request: Request, pk: str) -> Response:
        return Response(BatchView(access.batch(self.principal, pk, Permission.READ)).data)

    @extend_schema(request=None, responses=BatchView)
    @action(detail=True, methods=["post"])
    def cancel(self, request: Request, pk: str) -> Response:
        batch = access.batch(self.principal, pk, Permission.MANAGE_ENDPOINTS)
        batch = services.cancel(actor=self.principal.actor, batch=batch, now=self.now)
        return Response(BatchView(batch).data)
