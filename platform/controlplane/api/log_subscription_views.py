"""Who is sent a log: its heads each day, its events as they come."""

from typing import Any

from drf_spectacular.utils import extend_schema
from rest_framework import serializers, status
from rest_framework.request import Request
from rest_framework.response import Response

from compliance import audit
from compliance.log import subscriptions
from compliance.models import LogSubscription
from controlplane.api.audit_views import LOG, ORGANIZATION, log_of
from controlplane.api.views import HouseViewSet
from controlplane.tenancy.errors import Invalid, NotFound
from controlplane.tenancy.models import Organization


class LogSubscriptionView(serializers.ModelSerializer[LogSubscription]):
    object = serializers.CharField(default="log_subscription", read_only=True)
    log = serializers.CharField(source="owner")
    format = serializers.CharField(source="form")

    class Meta:
        model = LogSubscription
        fields = (
            *("id", "object", "log", "kind", "via", "host", "format", "next_index"),
            *("created_at", "sent_at", "failures", "failure"),
        )


class LogSubscriptionMade(serializers.Serializer[Any]):
    subscription = LogSubscriptionView()
    secret = serializers.CharField(help_text="webhooks are signed with it; shown this once")


class LogSubscriptionBody(serializers.Serializer[Any]):
    organization = serializers.CharField(required=False)
    log = serializers.ChoiceField(choices=[audit.PLATFORM], required=False)
    kind = serializers.ChoiceField(choices=subscriptions.KINDS)
    via = serializers.ChoiceField(choices=["webhook", "syslog", "mail"])
    address = serializers.CharField(max_length=1_000)
    format = serializers.ChoiceField(choices=subscriptions.FORMS, default="ocsf")


class LogSubscriptions(HouseViewSet):
    serializer_class = LogSubscriptionView
    queryset = LogSubscription.objects.none()

    @extend_schema(parameters=[ORGANIZATION, LOG], responses=LogSubscriptionView(many=True))
    def list(self, request: Request) -> Response:
        owner = log_of(self.principal, request.query_params)
        return self.page(subscriptions.of(owner), LogSubscriptionView)

    def retrieve(self, request: Request, pk: str) -> Response:
        return Response(LogSubscriptionView(self._one(pk)).data)

    # Not idempotent by key: an answer that is kept would keep its secret.
    @extend_schema(request=LogSubscriptionBody, responses={201: LogSubscriptionMade})
    def create(self, request: Request) -> Response:
        body = self.checked(request, LogSubscriptionBody)
        owner = log_of(self.principal, body)
        home = Organization.objects.filter(id=owner).values_list("region_code", flat=True)
        try:
            made, secret = subscriptions.subscribe(
                actor=self.principal.actor,
                owner=owner,
                kind=body["kind"],
                via=body["via"],
                address=body["address"],
                form=body["format"],
                region=home.first() or "",
                now=self.now,
            )
        except subscriptions.Refused as error:
            raise Invalid(str(error), field=error.field) from error
        said = {"subscription": LogSubscriptionView(made).data, "secret": secret}
        return Response(said, status=status.HTTP_201_CREATED)

    def destroy(self, request: Request, pk: str) -> Response:
        one = self._one(pk)
        subscriptions.unsubscribe(actor=self.principal.actor, subscription=one, now=self.now)
        return Response(status=status.HTTP_204_NO_CONTENT)

    def _one(self, pk: str) -> LogSubscription:
        found = LogSubscription.objects.filter(pk=pk, ended_at=None).first()
        if found is None:
            raise NotFound("subscription")
        place = "log" if found.owner == audit.PLATFORM else "organization"
        try:
            log_of(self.principal, {place: found.owner})
        except NotFound:
            raise NotFound("subscription") from None
        return found
