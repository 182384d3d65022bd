"""Quotes: on what a model should run, how fast, for how much, and why not on anything else."""

from typing import Any

from drf_spectacular.utils import OpenApiParameter, extend_schema, extend_schema_field
from rest_framework import serializers, status
from rest_framework.request import Request
from rest_framework.response import Response

from controlplane.api.idempotency import idempotent
from controlplane.api.views import HouseViewSet
from controlplane.endpoints import access as endpoint_access
from controlplane.endpoints import quote_keeping, quote_outcomes
from controlplane.endpoints.models import Quote
from controlplane.tenancy import access
from controlplane.tenancy.access import Permission


class PairView(serializers.Serializer[Any]):
    p50 = serializers.FloatField()
    p95 = serializers.FloatField()


class QuotedPriceView(serializers.Serializer[Any]):
    """Exact, as text; null where nothing has a price."""

    currency = serializers.CharField()
    hour = serializers.CharField(allow_null=True)
    million_tokens = serializers.CharField(allow_null=True)
    million_output_tokens = serializers.CharField(allow_null=True)
    job = serializers.CharField(allow_null=True)
    job_p95 = serializers.CharField(allow_null=True)


class WayView(serializers.Serializer[Any]):
    device = serializers.CharField()
    tensor_parallel_size = serializers.IntegerField(allow_null=True)
    pipeline_parallel_size = serializers.IntegerField(allow_null=True)
    data_parallel_size = serializers.IntegerField(allow_null=True)
    quantization = serializers.CharField(allow_null=True)


class QuotedView(WayView):
    """A load has `ttft_s` to `busy_share`, a job `runtime_s` to `tokens_in_canary`."""

    device_kind = serializers.CharField()
    devices = serializers.IntegerField()
    replicas = serializers.IntegerField()
    max_num_seqs = serializers.IntegerField()
    max_model_len = serializers.IntegerField()
    starts_s = serializers.DictField(child=PairView(), help_text="By tier: docs/starts.md.")
    price = QuotedPriceView()
    refined_by = serializers.CharField(allow_null=True)
    endpoint = serializers.DictField(help_text="What of an endpoint's body makes it run so.")
    ttft_s = PairView(required=False)
    tpot_s = PairView(required=False)
    e2e_s = PairView(required=False)
    output_tokens_per_second = serializers.FloatField(required=False)
    output_tokens_per_second_at_most = serializers.FloatField(required=False)
    busy_share = serializers.FloatField(required=False)
    runtime_s = PairView(required=False)
    tokens_per_second = serializers.FloatField(required=False)
    tokens_in_canary = serializers.FloatField(required=False)


class LostView(WayView):
    reason = serializers.CharField()


class QuoteView(serializers.ModelSerializer[Quote]):
    object = serializers.CharField(default="quote", read_only=True)
    project = serializers.CharField(source="project_id")
    asked = serializers.JSONField(source="body")
    candidates = serializers.SerializerMethodField()
    rejected = serializers.SerializerMethodField()

    class Meta:
        model = Quote
        fields: tuple[str, ...] = (
            "id",
            "object",
            "project",
            "source",
            "model",
            "revision",
            "engine_version",
            "asked",
            "candidates",
            "rejected",
            "created_at",
        )

    @extend_schema_field(QuotedView(many=True))
    def get_candidates(self, quote: Quote) -> Any:
        """Best first; all of them keep the SLO."""
        return quote.answer["candidates"]

    @extend_schema_field(LostView(many=True))
    def get_rejected(self, quote: Quote) -> Any:
        return quote.answer["rejected"]


class CameView(serializers.Serializer[Any]):
    """What was asked of the endpoint in the mean of the day."""

    requests = serializers.IntegerField()
    requests_per_second = serializers.FloatField(allow_null=True)
    prompt_tokens = serializers.FloatField()
    output_tokens = serializers.FloatField()
    cached_share = serializers.FloatField()


class FigureView(serializers.Serializer[Any]):
    """Seconds, tokens a second; of `price_…` exact text. `off`: measured over predicted, less 1."""

    figure = serializers.CharField()
    predicted = serializers.JSONField()
    predicted_p95 = serializers.JSONField()
    measured = serializers.JSONField()
    off = serializers.FloatField()
    kept = serializers.BooleanField(help_text="It stayed within what was said at p95.")


class OutcomeView(serializers.Serializer[Any]):
    endpoint = serializers.CharField()
    day = serializers.DateField(help_text="UTC")
    came = CameView()
    quoted_as = serializers.DictField(
        allow_null=True, help_text="null: the endpoint runs as nothing that was quoted does."
    )
    figures = FigureView(many=True)


class OneQuoteView(QuoteView):
    measured = serializers.SerializerMethodField()

    class Meta(QuoteView.Meta):
        fields = (*QuoteView.Meta.fields, "measured")

    @extend_schema_field(OutcomeView(many=True))
    def get_measured(self, quote: Quote) -> Any:
        """The quote beside what happened, a day of an endpoint each, newest first."""
        return [quote_outcomes.facts(one) for one in quote_outcomes.of(quote)]


class ShapeBody(serializers.Serializer[Any]):
    prompt_tokens = serializers.FloatField(help_text="In the mean.")
    output_tokens = serializers.FloatField(help_text="In the mean.")
    cached_share = serializers.FloatField(
        required=False, help_text="Of prompts, found in the prefix cache."
    )
    spread = serializers.FloatField(
        required=False, help_text="Deviation of lengths over their mean."
    )


class LoadBody(ShapeBody):
    requests_per_second = serializers.FloatField()


class JobBody(ShapeBody):
    requests = serializers.IntegerField()
    deadline_s = serializers.FloatField(required=False)


class SloBody(serializers.Serializer[Any]):
    ttft_p95_s = serializers.FloatField(required=False)
    tpot_p95_s = serializers.FloatField(required=False)


class QuoteBody(serializers.Serializer[Any]):
    """Of `model` and `config` one, of `load` and `job` one."""

    project = serializers.CharField()
    model = serializers.CharField(required=False, max_length=300)
    revision = serializers.CharField(required=False, allow_blank=True, max_length=64)
    config = serializers.DictField(required=False, help_text="A config.json, of any model.")
    engine_version = serializers.CharField(required=False, allow_blank=True)
    load = LoadBody(required=False)
    job = JobBody(required=False)
    slo = SloBody(required=False)
    arguments = serializers.DictField(required=False, help_text="As an endpoint's engine_args.")
    quantizations = serializers.ListField(
        child=serializers.CharField(),
        required=False,
        help_text="What may be done to it besides the checkpoint as it is: fp8, …",
    )

    def get_fields(self) -> dict[str, serializers.Field[Any, Any, Any, Any]]:
        """`source` is a name that fields themselves use: it cannot be declared."""
        told = "hub, mirror, s3, upload or path; empty: a path or the hub, as the model looks."
        named = serializers.CharField(required=False, allow_blank=True, help_text=told)
        return {**super().get_fields(), "source": named}


class ProjectOfQuote(serializers.Serializer[Any]):
    """All that is checked here; the rest is checked as a whole, where it is understood."""

    project = serializers.CharField()


class Quotes(HouseViewSet):
    serializer_class = QuoteView
    queryset = Quote.objects.none()

    @extend_schema(
        parameters=[OpenApiParameter("project", str, required=False)],
        responses=QuoteView(many=True),
    )
    def list(self, request: Request) -> Response:
        rows = endpoint_access.quotes(self.principal)
        if wanted := request.query_params.get("project"):
            rows = rows.filter(project_id=wanted)
        return self.page(rows, QuoteView)

    @extend_schema(responses=OneQuoteView)
    def retrieve(self, request: Request, pk: str) -> Response:
        quote = endpoint_access.quote(self.principal, pk, Permission.READ)
        return Response(OneQuoteView(quote).data)

    @extend_schema(request=QuoteBody, responses={201: OneQuoteView})
    @idempotent
    def create(self, request: Request) -> Response:
        place = self.checked(request, ProjectOfQuote)["project"]
        project = access.project(self.principal, place, Permission.MANAGE_ENDPOINTS)
        assert isinstance(request.data, dict)  # checked
        body = {name: value for name, value in request.data.items() if name != "project"}
        quote = quote_keeping.create(
            actor=self.principal.actor, project=project, body=body, now=self.now
        )
        return Response(OneQuoteView(quote).data, status=status.HTTP_201_CREATED)
