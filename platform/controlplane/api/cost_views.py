"""What was used, and what it costs."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework import serializers
from rest_framework.decorators import action
from rest_framework.exceptions import ValidationError
from rest_framework.request import Request
from rest_framework.response import Response

from billing import months
from billing.meters import usage
from billing.models import UsageEvent
from billing.reports import costs, outlook
from compliance import moments
from controlplane.api.pagination import envelope
from controlplane.api.views import HouseViewSet
from controlplane.endpoints import access as endpoint_access
from controlplane.endpoints import running
from controlplane.tenancy import access
from controlplane.tenancy.access import Permission
from controlplane.tenancy.models import Organization, Project

_GROUPINGS: tuple[costs.Grouping, ...] = (
    *("organization", "project", "key", "endpoint"),
    *("agent", "run", "hour"),
)
USAGE_LIMIT = 1000


class UsageView(serializers.ModelSerializer[UsageEvent]):
    object = serializers.CharField(default="usage_event", read_only=True)
    project = serializers.CharField(source="project_id")
    key = serializers.CharField(source="key_id")
    endpoint = serializers.CharField(source="endpoint_id")
    replica = serializers.CharField(source="replica_id")
    request = serializers.CharField(source="request_id")

    class Meta:
        model = UsageEvent
        fields = (
            "id",
            "object",
            "at",
            "project",
            "key",
            "endpoint",
            "replica",
            "request",
            "region",
            "device_kind",
            "meter",
            "basis",
            "quantity",
            "share",
            "flags",
            "agent",
            "run",
        )


class CostsView(serializers.Serializer[Any]):
    """billing.reports.costs.Costs as JSON: money is text."""

    account_id = serializers.CharField()
    currency = serializers.CharField()
    start = serializers.CharField()
    end = serializers.CharField()
    grouping = serializers.ChoiceField(choices=_GROUPINGS)
    rows = serializers.ListField(child=serializers.DictField())
    lines = serializers.ListField(child=serializers.DictField())
    unpriced = serializers.ListField(child=serializers.DictField())
    charge = serializers.CharField()
    charge_exact = serializers.CharField()
    attribution = serializers.CharField()
    attribution_exact = serializers.CharField()


class CostForecastView(serializers.Serializer[Any]):
    """`forecast.Forecast` as JSON: money is text; what nobody knows has two digits."""

    object = serializers.CharField()
    currency = serializers.CharField()
    so_far = serializers.CharField()
    low = serializers.CharField()
    expected = serializers.CharField()
    high = serializers.CharField(help_text="Four months of five end between low and high.")
    days = serializers.IntegerField(help_text="Of usage, that it was made of.")
    unpriced = serializers.ListField(child=serializers.CharField())


_WHERE = [
    OpenApiParameter("project", str, description="A project; a key's own if left out."),
    OpenApiParameter("endpoint", str),
    OpenApiParameter("from", datetime, description="Default: the start of this month (UTC)."),
    OpenApiParameter("to", datetime, description="Default: now."),
]


class Costs(HouseViewSet):
    serializer_class = CostsView

    @extend_schema(
        parameters=[
            *_WHERE,
            OpenApiParameter("organization", str),
            OpenApiParameter("by", str, enum=_GROUPINGS),
        ],
        responses=CostsView,
    )
    def list(self, request: Request) -> Response:
        grouping = request.query_params.get("by", "endpoint")
        if grouping not in _GROUPINGS:
            raise ValidationError({"by": f"One of {', '.join(_GROUPINGS)}."})
        now = self.now
        organization, project_id, endpoint_id = self._place(request)
        found = costs.by(
            grouping,
            organization.account_id,
            start=moment(request, "from", months.start_of(now)),
            end=moment(request, "to", now),
            project_id=project_id,
            endpoint_id=endpoint_id,
            running=[]
            if "to" in request.query_params
            else running.running(organization.account_id, now=now),
        )
        return Response(found.as_json())

    @extend_schema(parameters=[OpenApiParameter("organization", str)], responses=CostForecastView)
    @action(detail=False)
    def forecast(self, request: Request) -> Response:
        """What the organization's month will come to: a range, before VAT."""
        id = request.query_params.get("organization", "")
        organization = access.organization(self.principal, id, Permission.VIEW_COSTS)
        found = outlook.to_month_end(organization.account_id, now=self.now)
        return Response(outlook.as_json(found, organization.account.currency))

    def _place(self, request: Request) -> tuple[Organization, str | None, str | None]:
        """Whose costs: of an endpoint, a project, or a whole organization."""
        query = request.query_params
        if endpoint_id := query.get("endpoint"):
            endpoint = endpoint_access.endpoint(self.principal, endpoint_id, Permission.VIEW_COSTS)
            return endpoint.project.organization, None, endpoint.id
        if project_id := query.get("project") or self.principal.project_id:
            project = access.project(self.principal, project_id, Permission.VIEW_COSTS)
            return project.organization, project.id, None
        organization_id = query.get("organization", "")
        return (
            access.organization(self.principal, organization_id, Permission.VIEW_COSTS),
            None,
            None,
        )


class Usage(HouseViewSet):
    """Usage events, oldest first, at most 1,000 at a time."""

    serializer_class = UsageView
    queryset = UsageEvent.objects.none()

    @extend_schema(
        parameters=[*_WHERE, OpenApiParameter("request", str), OpenApiParameter("after", str)],
        responses=UsageView(many=True),
    )
    def list(self, request: Request) -> Response:
        now, query = self.now, request.query_params
        projects = self._projects(request)
        found = usage.page(
            {project.organization.account_id for project in projects},
            {project.id for project in projects},
            moment(request, "from", months.start_of(now)),
            moment(request, "to", now),
            endpoint_id=query.get("endpoint", ""),
            request_id=query.get("request", ""),
            after=query.get("after", ""),
            limit=USAGE_LIMIT + 1,
        )
        has_more = len(found) > USAGE_LIMIT
        found = found[:USAGE_LIMIT]
        return Response(envelope(UsageView(found, many=True).data, found, has_more=has_more))

    def _projects(self, request: Request) -> Sequence[Project]:
        if wanted := request.query_params.get("project"):
            return [access.project(self.principal, wanted, Permission.VIEW_COSTS)]
        seen = Project.objects.filter(pk__in=access.projects(self.principal))
        return [
            project
            for project in seen.select_related("organization")
            if Permission.VIEW_COSTS
            in self.principal.permissions(project.organization_id, project.id)
        ]


def moment(request: Request, name: str, default: datetime) -> datetime:
    value = request.query_params.get(name)
    if not value:
        return default
    try:
        return moments.parse(value.replace(" ", "+"))
    except ValueError:
        raise ValidationError(
            {name: "A time with its zone, such as 2026-11-01T00:00:00Z."}
        ) from None
