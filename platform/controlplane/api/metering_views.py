"""What differed between node records and our own clock, and how it was settled."""

from typing import Any

from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework import serializers
from rest_framework.decorators import action
from rest_framework.request import Request
from rest_framework.response import Response

from billing import errors, months
from billing.meters import metering
from billing.models import MeterFinding
from compliance import audit
from controlplane.api.cost_views import moment
from controlplane.api.views import HouseViewSet
from controlplane.tenancy import access
from controlplane.tenancy.access import Permission
from controlplane.tenancy.errors import Conflict, NotFound
from controlplane.tenancy.models import Organization


class MeterFindingView(serializers.ModelSerializer[MeterFinding]):
    object = serializers.CharField(default="meter_finding", read_only=True)
    replica = serializers.CharField(source="replica_id")
    project = serializers.CharField(source="project_id")
    endpoint = serializers.CharField(source="endpoint_id")

    class Meta:
        model = MeterFinding
        fields = (
            "id",
            "object",
            "kind",
            "at",
            "found_at",
            "project",
            "endpoint",
            "replica",
            "seconds",
            "detail",
            "blocks",
            "explained_at",
            "explanation",
        )


class ExplainBody(serializers.Serializer[Any]):
    reason = serializers.CharField(max_length=300, help_text="The customer can read it.")


class MeterFindings(HouseViewSet):
    """Of an organization, for whoever sees its costs; of the platform, for its operators."""

    serializer_class = MeterFindingView
    queryset = MeterFinding.objects.none()

    @extend_schema(
        parameters=[
            OpenApiParameter("organization", str, description="Left out: all, for operators."),
            OpenApiParameter("open", bool, description="Only those that keep invoices back."),
            OpenApiParameter("from", str),
            OpenApiParameter("to", str),
        ],
        responses=MeterFindingView(many=True),
    )
    def list(self, request: Request) -> Response:
        query = request.query_params
        found = MeterFinding.objects.filter(
            at__gte=moment(request, "from", months.start_of(self.now)),
            at__lt=moment(request, "to", self.now),
        )
        if organization_id := query.get("organization", ""):
            organization = access.organization(
                self.principal, organization_id, Permission.VIEW_COSTS
            )
            found = found.filter(account_id=organization.account_id)
        else:
            access.operator(self.principal)
        if query.get("open") == "true":
            found = found.filter(blocks=True, explained_at=None)
        return self.page(found.order_by("-id"), MeterFindingView)

    @extend_schema(request=ExplainBody, responses=MeterFindingView)
    @action(detail=True, methods=["post"])
    def explain(self, request: Request, pk: str) -> Response:
        access.operator(self.principal)
        row = MeterFinding.objects.filter(pk=pk).first()
        if row is None:
            raise NotFound("meter finding")
        owner = Organization.objects.filter(account_id=row.account_id).first()
        try:
            found = metering.explain(
                pk,
                actor=self.principal.actor,
                reason=self.checked(request, ExplainBody)["reason"],
                log=owner.id if owner else audit.PLATFORM,
                region=owner.region_code if owner else "",
                now=self.now,
            )
        except errors.MeteringRefused as error:
            raise Conflict(str(error), code=error.code) from error
        return Response(MeterFindingView(found).data)
