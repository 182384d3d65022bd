"""Retention with its runs, legal holds, and records of processing."""

from typing import Any

from drf_spectacular.utils import extend_schema
from rest_framework import serializers, status
from rest_framework.decorators import action
from rest_framework.request import Request
from rest_framework.response import Response

from compliance import audit
from compliance.models import Hold, ProcessingVersion, RetentionRun
from compliance.privacy import holds, periods, records, refusals, retention
from compliance.privacy.rules import UNITS
from controlplane.api.audit_views import LOG, ORGANIZATION, log_of
from controlplane.api.idempotency import idempotent
from controlplane.api.views import HouseViewSet
from controlplane.tenancy import access, holding
from controlplane.tenancy.errors import Invalid, NotFound

_WHOSE = [ORGANIZATION, LOG]


class RuleView(serializers.Serializer[Any]):
    object = serializers.CharField(default="retention_rule")
    code = serializers.CharField(source="rule.code")
    category = serializers.CharField(source="rule.category")
    basis = serializers.CharField(source="rule.basis")
    period = serializers.CharField(source="rule.period", help_text="`None`: see `ground`")
    starts = serializers.CharField(source="rule.starts")
    action = serializers.CharField(source="rule.action")
    jurisdiction = serializers.CharField(source="rule.jurisdiction")
    written_in = serializers.CharField(source="rule.source")
    ground = serializers.CharField(source="rule.ground")
    floor = serializers.CharField(source="rule.floor")
    ceiling = serializers.CharField(source="rule.ceiling")
    setting = serializers.CharField(source="rule.setting")
    since = serializers.DateTimeField()
    set_by = serializers.CharField()


class PeriodBody(serializers.Serializer[Any]):
    amount = serializers.IntegerField(min_value=0, max_value=100_000)
    unit = serializers.ChoiceField(choices=UNITS)
    reason = serializers.CharField(max_length=500)
    effective_from = serializers.DateTimeField(required=False)


class RunView(serializers.ModelSerializer[RetentionRun]):
    object = serializers.CharField(default="retention_run", read_only=True)
    rule = serializers.CharField(source="code")

    class Meta:
        model = RetentionRun
        fields = (
            *("id", "object", "rule", "log", "at", "since", "before"),
            *("done", "held", "failed", "complete", "event_id"),
        )


class HoldView(serializers.ModelSerializer[Hold]):
    object = serializers.CharField(default="legal_hold", read_only=True)
    subject = serializers.CharField(source="subject_id")

    class Meta:
        model = Hold
        fields = (
            *("id", "object", "log", "subject_kind", "subject", "reason"),
            *("placed_at", "placed_by", "lifted_at", "lifted_by"),
        )


class HoldBody(serializers.Serializer[Any]):
    organization = serializers.CharField(required=False)
    log = serializers.ChoiceField(choices=[audit.PLATFORM], required=False)
    subject = serializers.CharField(max_length=31)
    reason = serializers.CharField(max_length=500)


class ReasonBody(serializers.Serializer[Any]):
    reason = serializers.CharField(max_length=500)


class RecordVersionView(serializers.ModelSerializer[ProcessingVersion]):
    object = serializers.CharField(default="processing_record", read_only=True)
    changes = serializers.SerializerMethodField()

    class Meta:
        model = ProcessingVersion
        fields = ("id", "object", "number", "sha256", "at", "event_id", "changes")

    def get_changes(self, version: ProcessingVersion) -> list[str]:
        """What came (+) and what went (-) since the version before."""
        before = records.versions(version.scope).filter(number=version.number - 1).first()
        return records.difference(records.read(before) if before else None, records.read(version))


class ContactBody(serializers.Serializer[Any]):
    organization = serializers.CharField(required=False)
    log = serializers.ChoiceField(choices=[audit.PLATFORM], required=False)
    name = serializers.CharField(max_length=200, allow_blank=True)
    address = serializers.CharField(max_length=400, allow_blank=True, default="")
    email = serializers.CharField(max_length=254, allow_blank=True, default="")
    phone = serializers.CharField(max_length=40, allow_blank=True, default="")


class RetentionRules(HouseViewSet):
    """The schedule. Whoever may see evidence of some log may see it; operators change it."""

    lookup_value_regex = r"[a-z_]{1,48}"
    queryset = RetentionRun.objects.none()

    @extend_schema(parameters=_WHOSE, responses=RuleView(many=True))
    def list(self, request: Request) -> Response:
        log_of(self.principal, request.query_params)
        found = RuleView(periods.schedule(self.now), many=True).data
        return Response({"object": "list", "data": found})

    @extend_schema(request=PeriodBody, responses=RuleView)
    def update(self, request: Request, pk: str) -> Response:
        access.operator(self.principal)
        body = self.checked(request, PeriodBody)
        try:
            changed = periods.change(actor=self.principal.actor, code=pk, now=self.now, **body)
        except refusals.Wrong as error:
            if error.code == "unknown_rule":
                raise NotFound("rule") from error
            raise Invalid(error.message, code=error.code, field=error.field) from error
        return Response(RuleView(changed).data)


class RetentionRuns(HouseViewSet):
    queryset = RetentionRun.objects.none()
    serializer_class = RunView

    @extend_schema(parameters=_WHOSE, responses=RunView(many=True))
    def list(self, request: Request) -> Response:
        log = log_of(self.principal, request.query_params)
        return self.page(retention.runs("" if log == audit.PLATFORM else log), RunView)


class LegalHolds(HouseViewSet):
    queryset = Hold.objects.none()
    serializer_class = HoldView

    @extend_schema(parameters=_WHOSE, responses=HoldView(many=True))
    def list(self, request: Request) -> Response:
        return self.page(holds.of(log_of(self.principal, request.query_params)), HoldView)

    def retrieve(self, request: Request, pk: str) -> Response:
        return Response(HoldView(holding.find(self.principal, pk)).data)

    @extend_schema(request=HoldBody, responses={201: HoldView})
    @idempotent
    def create(self, request: Request) -> Response:
        body = self.checked(request, HoldBody)
        made = holding.place(
            principal=self.principal,
            log=body.get("log") or body.get("organization", ""),
            subject_id=body["subject"],
            reason=body["reason"],
            now=self.now,
        )
        return Response(HoldView(made).data, status=status.HTTP_201_CREATED)

    @extend_schema(request=ReasonBody, responses=HoldView)
    @action(detail=True, methods=["post"])
    def lift(self, request: Request, pk: str) -> Response:
        hold = holding.find(self.principal, pk)
        body = self.checked(request, ReasonBody)
        given = {"reason": body["reason"], "now": self.now}
        return Response(HoldView(holding.lift(principal=self.principal, hold=hold, **given)).data)


class ProcessingRecords(HouseViewSet):
    """The record of processing as it is now, its versions, and who answers for it."""

    queryset = ProcessingVersion.objects.none()
    serializer_class = RecordVersionView

    @extend_schema(parameters=_WHOSE, responses=RecordVersionView(many=True))
    def list(self, request: Request) -> Response:
        log = log_of(self.principal, request.query_params)
        return self.page(ProcessingVersion.objects.filter(scope=log), RecordVersionView)

    @extend_schema(parameters=_WHOSE, responses={200: dict})
    def current(self, request: Request) -> Response:
        log = log_of(self.principal, request.query_params)
        return Response({"object": "processing_record"} | records.current(log, self.now))

    @extend_schema(request=ContactBody, responses={200: dict})
    def contact(self, request: Request, part: str) -> Response:
        body = self.checked(request, ContactBody)
        scope = body.pop("log", "") or body.pop("organization", "")
        body.pop("organization", "")
        holding.configure(principal=self.principal, scope=scope, part=part, now=self.now, **body)
        named = records.contacts(scope).get(part)
        fields = ("name", "address", "email", "phone")
        said = {name: getattr(named, name, "") for name in fields}
        return Response({"object": "processing_contact", "part": part} | said)
