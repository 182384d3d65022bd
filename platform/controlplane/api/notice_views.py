"""What the operator has told an organization."""

from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework import serializers
from rest_framework.decorators import action
from rest_framework.request import Request
from rest_framework.response import Response

from controlplane.api.views import HouseViewSet
from controlplane.tenancy import access, notices
from controlplane.tenancy.access import Permission
from controlplane.tenancy.models import Notice


class NoticeView(serializers.ModelSerializer[Notice]):
    object = serializers.CharField(default="notice", read_only=True)
    organization = serializers.CharField(source="organization_id")
    about = serializers.CharField(source="about_id", help_text="The id of what it is about.")

    class Meta:
        model = Notice
        fields = (
            *("id", "object", "organization", "subject", "text", "about", "about_type"),
            *("created_at", "closed_at"),
        )


class Notices(HouseViewSet):
    """The newest first; `open=true` leaves out what somebody has closed."""

    serializer_class = NoticeView
    queryset = Notice.objects.none()

    @extend_schema(
        parameters=[OpenApiParameter("open", bool, required=False)],
        responses=NoticeView(many=True),
    )
    def list(self, request: Request) -> Response:
        rows = access.notices(self.principal)
        if request.query_params.get("open", "").lower() in ("true", "1"):
            rows = rows.filter(closed_at=None)
        return self.page(rows, NoticeView)

    def retrieve(self, request: Request, pk: str) -> Response:
        return Response(NoticeView(access.notice(self.principal, pk, Permission.READ)).data)

    @extend_schema(request=None, responses=NoticeView)
    @action(detail=True, methods=["post"])
    def close(self, request: Request, pk: str) -> Response:
        # Read: whoever sees it may say that it was read. A key reads, and closes nothing.
        notice = access.notice(self.principal, pk, Permission.MANAGE_ENDPOINTS)
        closed = notices.close(actor=self.principal.actor, notice=notice, now=self.now)
        return Response(NoticeView(closed).data)
