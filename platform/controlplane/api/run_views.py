"""What runs and agents used. Their names are kept nowhere: who knows one can ask by it."""

from datetime import datetime, timedelta
from typing import Any

from django.conf import settings
from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework import serializers
from rest_framework.decorators import action
from rest_framework.exceptions import ValidationError
from rest_framework.request import Request
from rest_framework.response import Response

from billing import pseudonyms
from billing.meters import runs
from billing.models import Unit
from controlplane.api.budget_views import shown
from controlplane.api.cost_views import moment
from controlplane.api.views import HouseViewSet
from controlplane.tenancy import access, running
from controlplane.tenancy.access import Permission
from controlplane.tenancy.errors import NotFound

_GROUPINGS: tuple[runs.Grouping, ...] = ("run", "root", "agent")
RUNS_LIMIT = 100


class ReferenceBody(serializers.Serializer[Any]):
    project = serializers.CharField()
    run = serializers.CharField(required=False, help_text="As in x-stoa-run.")
    agent = serializers.CharField(required=False, help_text="As in x-stoa-agent.")


class ReferenceView(serializers.Serializer[Any]):
    run = serializers.CharField()
    agent = serializers.CharField()


class SumsView(serializers.Serializer[Any]):
    eur = serializers.CharField(help_text="What its tokens cost at list prices.")
    input_tokens = serializers.IntegerField()
    cached_tokens = serializers.IntegerField(help_text="Part of the input tokens.")
    output_tokens = serializers.IntegerField()
    calls = serializers.IntegerField()
    first_at = serializers.DateTimeField()
    last_at = serializers.DateTimeField()


class RunUsageView(SumsView):
    object = serializers.CharField(default="run_usage")
    by = serializers.ChoiceField(choices=_GROUPINGS)
    key = serializers.CharField(help_text="References; of a run also those above it, by slashes.")


class SummaryBody(serializers.Serializer[Any]):
    project = serializers.CharField(required=False, help_text="A key's own if left out.")
    run = serializers.CharField(help_text="As in x-stoa-run, or its reference.")
    agents = serializers.ListField(
        child=serializers.CharField(),
        required=False,
        max_length=RUNS_LIMIT,
        help_text="Names as in x-stoa-agent: where one of them used something, the reply says so.",
    )
    start = serializers.DateTimeField(required=False, help_text="Default: 30 days ago.")
    end = serializers.DateTimeField(required=False, help_text="Default: now.")


class AgentSumsView(SumsView):
    agent = serializers.CharField(help_text="Its reference; empty: calls that named none.")
    name = serializers.CharField(help_text="Of those that were asked for; else empty.")


class RunSumsView(SumsView):
    run = serializers.CharField(help_text="Its reference, after those above it, by slashes.")


class SummaryView(SumsView):
    object = serializers.CharField(default="run_summary")
    run = serializers.CharField(help_text="Its reference.")
    agents = AgentSumsView(many=True, help_text="The dearest first, 100 at most.")
    runs = RunSumsView(many=True, help_text="It and the runs below it, likewise.")


class RunUsage(HouseViewSet):
    """What runs and agents used, the dearest first; kept for 30 days."""

    serializer_class = RunUsageView

    @extend_schema(
        parameters=[
            OpenApiParameter("project", str, description="A key's own if left out."),
            OpenApiParameter("by", str, enum=_GROUPINGS),
            OpenApiParameter("of", str, description="The reference of a run or an agent."),
            OpenApiParameter("from", datetime, description="Default: 30 days ago."),
            OpenApiParameter("to", datetime, description="Default: now."),
            OpenApiParameter("skip", int),
        ],
        responses=RunUsageView(many=True),
    )
    def list(self, request: Request) -> Response:
        query = request.query_params
        by = next((one for one in _GROUPINGS if one == query.get("by", "run")), None)
        skip = query.get("skip", "0")
        if by is None:
            raise ValidationError({"by": f"One of {', '.join(_GROUPINGS)}."})
        if not skip.isdecimal() or len(skip) > 6:
            raise ValidationError({"skip": "A whole number."})
        wanted = query.get("project") or self.principal.project_id or ""
        project = access.project(self.principal, wanted, Permission.VIEW_COSTS)
        found = runs.used(
            project.id,
            by,
            start=moment(request, "from", self.now - timedelta(days=30)),
            end=moment(request, "to", self.now),
            within=query.get("of", ""),
            skip=int(skip),
            limit=RUNS_LIMIT + 1,
        )
        data = [_used(by, one) for one in found[:RUNS_LIMIT]]
        return Response({"object": "list", "data": data, "has_more": len(found) > RUNS_LIMIT})

    @extend_schema(request=ReferenceBody, responses=ReferenceView)
    @action(detail=False, methods=["post"])
    def references(self, request: Request) -> Response:
        """What a run and an agent are called here: their names are kept nowhere."""
        body = self.checked(request, ReferenceBody)
        project = access.project(self.principal, body["project"], Permission.VIEW_COSTS)
        key = pseudonyms.key(settings.KEY_PEPPER)
        run, agent = body.get("run", ""), body.get("agent", "")
        return Response(
            {
                "run": pseudonyms.run(key, project.id, run) if run else "",
                "agent": pseudonyms.agent(key, project.id, agent) if agent else "",
            }
        )

    @extend_schema(request=SummaryBody, responses=SummaryView)
    @action(detail=False, methods=["post"])
    def summary(self, request: Request) -> Response:
        """One run with all that is below it, found by its name: in all, by agent and by run.

        A POST, so that the names stand in no log of addresses.
        """
        body = self.checked(request, SummaryBody)
        wanted = body.get("project") or self.principal.project_id or ""
        project = access.project(self.principal, wanted, Permission.VIEW_COSTS)
        ref = running.reference(project, body["run"])
        start = body.get("start") or self.now - timedelta(days=30)
        found = runs.summary(project.id, ref, start=start, end=body.get("end") or self.now)
        if found is None:
            raise NotFound("run")
        names = {running.agent(project, name): name for name in body.get("agents", ())}
        return Response(
            {
                "object": "run_summary",
                "run": ref,
                **_sums(found.whole),
                "agents": [
                    {"agent": one.key, "name": names.get(one.key, ""), **_sums(one)}
                    for one in found.agents
                ],
                "runs": [{"run": one.key, **_sums(one)} for one in found.runs],
            }
        )


def _used(by: runs.Grouping, used: runs.Used) -> dict[str, Any]:
    return {
        "object": "run_usage",
        "by": by,
        "key": used.key,
        **_sums(used),
    }


def _sums(used: runs.Used) -> dict[str, Any]:
    return {
        "eur": shown(used.nano_eur, Unit.NANO_EUR),
        "input_tokens": used.input_tokens,
        "cached_tokens": used.cached_tokens,
        "output_tokens": used.output_tokens,
        "calls": used.calls,
        "first_at": used.first_at,
        "last_at": used.last_at,
    }
