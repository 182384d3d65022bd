"""What devices cost their owner and what they brought in, for the operator."""

from typing import Any

from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework import serializers, status
from rest_framework.request import Request
from rest_framework.response import Response

from billing import months
from billing.errors import PriceRefused
from billing.models import OwnedCost
from billing.reports import margin, sales
from controlplane.api.cost_export_views import month
from controlplane.api.idempotency import idempotent
from controlplane.api.views import HouseViewSet
from controlplane.endpoints import capacity
from controlplane.tenancy import access
from controlplane.tenancy.errors import Invalid


class MarginRow(serializers.Serializer[Any]):
    device_kind = serializers.CharField(
        help_text="Empty: what is of no device, as tokens, monthly minimums and credit given."
    )
    owned_h = serializers.CharField(help_text="Device-hours in the fleet, used or not.")
    sold_h = serializers.CharField(help_text="Charged: serving, keep-warm, asleep.")
    given_away_h = serializers.CharField(help_text="Held by replicas and not charged.")
    idle_h = serializers.CharField()
    revenue = serializers.CharField(
        help_text="As invoiced, net; of what is not invoiced yet: as an invoice would say it now."
    )
    given_back = serializers.CharField()
    cost = serializers.CharField(allow_null=True, help_text="Null: its owner has not said.")
    margin = serializers.CharField(allow_null=True)
    cost_per_sold_hour = serializers.CharField(allow_null=True)


class OwnedCostView(serializers.ModelSerializer[OwnedCost]):
    object = serializers.CharField(default="owned_cost", read_only=True)
    amount = serializers.CharField()

    class Meta:
        model = OwnedCost
        fields = ("id", "object", "device_kind", "amount", "currency", "valid_from", "created_at")


class OwnedCostBody(serializers.Serializer[Any]):
    device_kind = serializers.CharField(max_length=64)
    amount = serializers.DecimalField(24, 12, help_text="Of one device for an hour, used or not.")
    valid_from = serializers.DateTimeField(required=False)


class Margins(HouseViewSet):
    serializer_class = MarginRow

    @extend_schema(
        parameters=[OpenApiParameter("month", str, description="2026-10 (UTC); default: this.")],
        responses=MarginRow(many=True),
    )
    def list(self, request: Request) -> Response:
        """One row for each kind of device."""
        access.operator(self.principal)
        text = request.query_params.get("month") or months.start_of(self.now).strftime("%Y-%m")
        start, end = month(text)
        spent = list(OwnedCost.objects.all())
        there = capacity.of(margin.cuts(spent, start, end), self.now)
        return Response({"data": margin.as_json(margin.of(there, sales.of(start, end), spent))})


class OwnedCosts(HouseViewSet):
    serializer_class = OwnedCostView
    queryset = OwnedCost.objects.none()

    @extend_schema(responses=OwnedCostView(many=True))
    def list(self, request: Request) -> Response:
        access.operator(self.principal)
        return self.page(OwnedCost.objects.all(), OwnedCostView)

    @extend_schema(request=OwnedCostBody, responses={201: OwnedCostView})
    @idempotent
    def create(self, request: Request) -> Response:
        access.operator(self.principal)
        body = self.checked(request, OwnedCostBody)
        try:
            made = margin.set_cost(
                actor=self.principal.actor,
                device_kind=body["device_kind"],
                amount=body["amount"],
                valid_from=body.get("valid_from", self.now),
                now=self.now,
            )
        except PriceRefused as error:
            raise Invalid(str(error), code=error.code, field="amount") from error
        return Response(OwnedCostView(made).data, status=status.HTTP_201_CREATED)
