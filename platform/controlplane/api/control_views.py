"""The controls of ISO/IEC 27001 Annex A: which have evidence, and what one of them shows."""

from datetime import datetime, timedelta
from itertools import islice
from typing import Any

from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from compliance import annex_pack, audit, controls, moments
from compliance.bundles import kinds, tables
from compliance.models import AuditEvent
from controlplane.api.audit_views import LOG, ORGANIZATION, log_of
from controlplane.api.views import HouseViewSet
from controlplane.tenancy.errors import Invalid, NotFound

MOST_ROWS = 1_000
MOMENT = timedelta(microseconds=1)


class ControlView(serializers.Serializer[Any]):
    object = serializers.CharField(default="control")
    control = serializers.CharField(help_text="such as A.8.15")
    ref = serializers.CharField()
    title = serializers.CharField()
    evidence = serializers.ChoiceField(["software", "organisational"])
    producers = serializers.ListField(child=serializers.CharField())
    beside = serializers.CharField(help_text="what the software does not show, or why nothing")


class ControlList(serializers.Serializer[Any]):
    object = serializers.CharField(default="list")
    catalogue = serializers.CharField()
    controls = ControlView(many=True)


class ControlEvidence(ControlView):
    records = serializers.ListField(
        child=serializers.JSONField(), help_text=f"with the first {MOST_ROWS} rows of each"
    )


class Controls(HouseViewSet):
    queryset = AuditEvent.objects.none()
    lookup_value_regex = r"A\.[5-8]\.[0-9]{1,2}"

    @extend_schema(parameters=[ORGANIZATION, LOG], responses=ControlList)
    def list(self, request: Request) -> Response:
        owner = kinds.owner(log_of(self.principal, request.query_params))
        rows = [annex_pack.entry(one, owner) for one in controls.CONTROLS.values()]
        return Response({"object": "list", "catalogue": controls.CATALOGUE, "controls": rows})

    @extend_schema(
        parameters=[
            *(ORGANIZATION, LOG),
            OpenApiParameter("since", datetime, description="begin of a period"),
            OpenApiParameter(
                "until", datetime, description="its end, not included; by default now"
            ),
            OpenApiParameter("as_of", datetime, description="a moment, instead of a period"),
        ],
        responses=ControlEvidence,
    )
    def retrieve(self, request: Request, pk: str) -> Response:
        """What held at any moment of the period, or at that moment; personal columns are masked."""
        log = log_of(self.principal, request.query_params)
        control = controls.CONTROLS.get(pk)
        if control is None:
            raise NotFound("control")
        start, end = _period(request, self.now)
        owner = kinds.owner(log)
        lacking = annex_pack.missing(log, start, end)
        found = [_record(one, log, start, end, lacking) for one in controls.of_control(pk, owner)]
        if log == audit.PLATFORM:
            audit.record(
                actor=self.principal.actor,
                action="log.read",
                target=audit.Target("log", log),
                log=log,
                now=self.now,
            )
        return Response({"object": "control", **annex_pack.entry(control, owner), "records": found})


def _record(
    producer: controls.Producer, log: str, start: datetime, end: datetime, lacking: list[int]
) -> dict[str, Any]:
    dataset = producer.dataset
    rows = iter(producer.rows(log, start, end))
    shown = [_shown(dataset, row) for row in islice(rows, MOST_ROWS)]
    count = len(shown) + sum(1 for _ in rows)
    said = annex_pack.question(producer, log, start, end)
    result = annex_pack.result(producer, count, lacking)
    return said | {"population_count": count, **result, "rows": shown}


def _shown(dataset: kinds.Dataset, row: tables.Row) -> dict[str, Any]:
    pairs = zip(dataset.columns, row, strict=True)
    return {name: None if name in dataset.personal else tables.plain(one) for name, one in pairs}


def _period(request: Request, now: datetime) -> tuple[datetime, datetime]:
    at = _moment(request, "as_of")
    if at is not None:
        return at, at + MOMENT
    start, end = _moment(request, "since"), _moment(request, "until") or now
    if start is None:
        raise Invalid("name a period (since, until) or a moment (as_of)", field="since")
    if start >= end:
        raise Invalid("the period ends before it begins", field="until")
    return start, end


def _moment(request: Request, name: str) -> datetime | None:
    text = request.query_params.get(name, "")
    try:
        return moments.parse(text) if text else None
    except ValueError:
        raise Invalid("expected a time such as 2026-01-31T12:00:00Z", field=name) from None
