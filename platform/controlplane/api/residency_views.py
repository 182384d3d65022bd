"""Where an organization's data is: locations, the no-transfer report, and receipts of requests."""

from typing import Any

from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from billing import months
from compliance.log import proofs, signing
from compliance.models import AuditEvent
from controlplane.api.cost_views import moment
from controlplane.api.views import HouseViewSet
from controlplane.residency import locations, receipts, transfers
from controlplane.tenancy import access
from controlplane.tenancy.access import Permission
from controlplane.tenancy.errors import Conflict, Invalid, NotFound

ORGANIZATION = OpenApiParameter("organization", str, required=True)


class ReceiptView(serializers.Serializer[Any]):
    object = serializers.CharField(default="residency_receipt")
    request = serializers.CharField()
    body = serializers.CharField(help_text="the exact text that is signed, canonical JSON")
    sha256 = serializers.CharField()
    note = serializers.CharField(help_text="C2SP signed note over the body's SHA-256")
    vkey = serializers.CharField(help_text="pin the published one, not this")


class Residency(HouseViewSet):
    queryset = AuditEvent.objects.none()

    @extend_schema(parameters=[ORGANIZATION], responses=OpenApiTypes.OBJECT)
    def locations(self, request: Request) -> Response:
        """Every place in which something of the organization is kept, or to which it is sent."""
        organization = self._organization(request)
        there = locations.register(organization, self.now)
        return Response(
            {
                "object": "data_location_register",
                "organization": organization.id,
                "data": [one.as_json() for one in there],
                "not_stated": locations.unstated(there),
            }
        )

    @extend_schema(
        parameters=[ORGANIZATION, OpenApiParameter("from", str), OpenApiParameter("to", str)],
        responses=OpenApiTypes.OBJECT,
    )
    def transfers(self, request: Request) -> Response:
        """All processing locations of a period, and what was outside of the region."""
        organization = self._organization(request)
        start = moment(request, "from", months.start_of(self.now))
        end = moment(request, "to", self.now)
        if not start < end:
            raise Invalid("the period ends before it begins", field="to")
        said = transfers.report(transfers.Span(organization, start, end))
        head = proofs.newest(organization.id)
        return Response(said | {"checkpoint": head.note if head else None})

    @extend_schema(responses=ReceiptView)
    def receipt(self, request: Request, pk: str) -> Response:
        """Signed when it is asked for, of what the books have. To strangers there is no request."""
        try:
            project = access.project(self.principal, receipts.project_of(pk), Permission.READ)
        except NotFound:
            raise NotFound("request") from None
        try:
            made = receipts.issue(
                actor=self.principal.actor, project=project, request_id=pk, now=self.now
            )
            return Response(receipts.answer(pk, made))
        except receipts.NotYet as wait:
            raise Conflict(str(wait), code="not_yet") from wait
        except (signing.SignerAway, signing.Refused) as error:
            raise Conflict(str(error), code="signer_away") from error

    def _organization(self, request: Request) -> Any:
        wanted = request.query_params.get("organization", "")
        return access.organization(self.principal, wanted, Permission.EXPORT)
