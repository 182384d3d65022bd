"""Budgets, what is spent of them, and what runs and agents used. Money is text, in euro."""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

from django.conf import settings
from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework import serializers, status
from rest_framework.decorators import action
from rest_framework.exceptions import ValidationError
from rest_framework.request import Request
from rest_framework.response import Response

from billing import budgets, counters, pseudonyms, runs
from billing.models import Budget, BudgetWindow, Period, Subject, Unit
from controlplane.api.cost_views import moment
from controlplane.api.idempotency import idempotent
from controlplane.api.views import HouseViewSet
from controlplane.tenancy import access, spending
from controlplane.tenancy.access import Permission

EUR = "eur"
_UNITS = {EUR: Unit.NANO_EUR, "tokens": Unit.TOKENS, "calls": Unit.CALLS}
_GROUPINGS: tuple[runs.Grouping, ...] = ("run", "root", "agent")
_PLACES = ("organization", "project", "key")
RUNS_LIMIT = 100


def shown(amount: int, unit: str) -> str:
    """Euro with two decimals at least and nine at most; tokens and calls are whole."""
    if unit != Unit.NANO_EUR:
        return str(amount)
    whole, rest = divmod(amount, 10**9)
    return f"{whole}.{f'{rest:09d}'.rstrip('0').ljust(2, '0')}"


def counted(amount: Decimal, unit: str, field: str) -> int:
    """The amount as it is kept. Raises ValidationError for parts of a token."""
    if unit == Unit.NANO_EUR:
        amount = amount.scaleb(9)
    if amount != amount.to_integral_value():
        raise ValidationError({field: f"{unit} are whole."})
    return int(amount)


class AmountField(serializers.DecimalField):
    def __init__(self, **options: Any) -> None:
        super().__init__(max_digits=27, decimal_places=9, min_value=0, **options)


class StatusView(serializers.Serializer[Any]):
    window = serializers.CharField(help_text="2026-03-04, 2026-03 or total.")
    spent = serializers.CharField()
    outstanding = serializers.CharField(
        help_text="Held by gateways and replicas, whether they will spend it or not."
    )
    remaining = serializers.CharField(help_text="Of the amount, as far as spending has arrived.")
    calls = serializers.IntegerField()


class BudgetView(serializers.Serializer[Any]):
    id = serializers.CharField()
    object = serializers.CharField(default="budget")
    organization = serializers.CharField()
    subject = serializers.ChoiceField(choices=Subject.values)
    subject_id = serializers.CharField(help_text="Of agents and runs: their project.")
    agent = serializers.CharField(help_text="A reference; empty: each agent for itself.")
    unit = serializers.ChoiceField(choices=tuple(_UNITS))
    amount = serializers.CharField()
    allowance = serializers.CharField(help_text="By how much running answers may overrun it.")
    window = serializers.ChoiceField(choices=Period.values)
    time_zone = serializers.CharField()
    hard = serializers.BooleanField(help_text="Whether it refuses, or only warns.")
    created_at = serializers.DateTimeField()
    status = StatusView(
        allow_null=True, help_text="Of the current window; null where every agent or run has one."
    )


class CounterView(StatusView):
    id = serializers.CharField()
    object = serializers.CharField(default="budget_counter")
    of = serializers.CharField(help_text="The run or agent; empty for the subject itself.")
    first_at = serializers.DateTimeField()
    last_at = serializers.DateTimeField()


class BudgetBody(serializers.Serializer[Any]):
    organization = serializers.CharField(required=False)
    project = serializers.CharField(required=False)
    key = serializers.CharField(required=False)
    each = serializers.ChoiceField(
        choices=("agent", "run"),
        required=False,
        help_text="With `project`: every agent or run of it has a counter of its own.",
    )
    agent = serializers.CharField(
        required=False, help_text="With `each: agent`: the name of the only one it is for."
    )
    unit = serializers.ChoiceField(choices=tuple(_UNITS))
    amount = AmountField()
    allowance = AmountField(default=Decimal(0))
    window = serializers.ChoiceField(choices=Period.values)
    time_zone = serializers.CharField(default="UTC", help_text="IANA, such as Europe/Berlin.")
    hard = serializers.BooleanField(default=True)


class BudgetChange(serializers.Serializer[Any]):
    """What is absent stays."""

    amount = AmountField(required=False)
    allowance = AmountField(required=False)
    hard = serializers.BooleanField(required=False)


class ReferenceBody(serializers.Serializer[Any]):
    project = serializers.CharField()
    run = serializers.CharField(required=False, help_text="As in x-stoa-run.")
    agent = serializers.CharField(required=False, help_text="As in x-stoa-agent.")


class ReferenceView(serializers.Serializer[Any]):
    run = serializers.CharField()
    agent = serializers.CharField()


class RunUsageView(serializers.Serializer[Any]):
    object = serializers.CharField(default="run_usage")
    by = serializers.ChoiceField(choices=_GROUPINGS)
    key = serializers.CharField(help_text="References; of a run also those above it, by slashes.")
    eur = serializers.CharField(help_text="What its tokens cost at list prices.")
    input_tokens = serializers.IntegerField()
    cached_tokens = serializers.IntegerField(help_text="Part of the input tokens.")
    output_tokens = serializers.IntegerField()
    calls = serializers.IntegerField()
    first_at = serializers.DateTimeField()
    last_at = serializers.DateTimeField()


class Budgets(HouseViewSet):
    serializer_class = BudgetView
    queryset = Budget.objects.none()

    @extend_schema(
        parameters=[OpenApiParameter(name, str, required=False) for name in _PLACES],
        responses=BudgetView(many=True),
        description="Newest first. With `project` also those of its agents and runs.",
    )
    def list(self, request: Request) -> Response:
        rows = spending.budgets(self.principal)
        query = request.query_params
        if wanted := query.get("organization"):
            rows = rows.filter(organization_id=wanted)
        if wanted := query.get("project"):
            rows = rows.filter(subject__in=budgets.OF_PROJECTS, subject_id=wanted)
        if wanted := query.get("key"):
            rows = rows.filter(subject=Subject.KEY, subject_id=wanted)
        page = self.paginate_queryset(rows) or ()
        return self.get_paginated_response(_views(page, self.now))

    def retrieve(self, request: Request, pk: str) -> Response:
        return self._one(spending.budget(self.principal, pk, Permission.VIEW_COSTS).budget)

    @extend_schema(request=BudgetBody, responses={201: BudgetView})
    @idempotent
    def create(self, request: Request) -> Response:
        body = self.checked(request, BudgetBody)
        subject, subject_id = _subject(body)
        owner = spending.owner(self.principal, subject, subject_id, spending.SET)
        unit = _UNITS[body["unit"]]
        made = budgets.create(
            actor=self.principal.actor,
            owner=owner,
            unit=unit,
            amount=counted(body["amount"], unit, "amount"),
            allowance=counted(body["allowance"], unit, "allowance"),
            window=body["window"],
            time_zone=body["time_zone"],
            hard=body["hard"],
            agent=body.get("agent", ""),
            now=self.now,
        )
        return self._one(made, status.HTTP_201_CREATED)

    @extend_schema(request=BudgetChange, responses=BudgetView)
    def partial_update(self, request: Request, pk: str) -> Response:
        found = spending.budget(self.principal, pk, spending.SET)
        wanted = self.checked(request, BudgetChange)
        for name in ("amount", "allowance"):
            if name in wanted:
                wanted[name] = counted(wanted[name], found.budget.unit, name)
        changed = budgets.update(
            actor=self.principal.actor,
            budget=found.budget,
            region=found.region,
            now=self.now,
            **wanted,
        )
        return self._one(changed)

    @extend_schema(responses={204: None})
    def destroy(self, request: Request, pk: str) -> Response:
        found = spending.budget(self.principal, pk, spending.SET)
        budgets.delete(
            actor=self.principal.actor, budget=found.budget, region=found.region, now=self.now
        )
        return Response(status=status.HTTP_204_NO_CONTENT)

    @extend_schema(responses=CounterView(many=True))
    @action(detail=True, methods=["get"])
    def counters(self, request: Request, pk: str) -> Response:
        """Its windows, and of agents and runs every one's: newest first."""
        budget = spending.budget(self.principal, pk, Permission.VIEW_COSTS).budget
        for name in ("after", "before"):
            value = request.query_params.get(name, "0")
            if not value.isdecimal() or len(value) > 18:
                raise ValidationError({name: "An id from this list."})
        page: Sequence[BudgetWindow] = self.paginate_queryset(counters.of(budget)) or ()
        return self.get_paginated_response(
            [
                {
                    "id": str(row.id),
                    "object": "budget_counter",
                    "of": row.window.partition("/")[2],
                    "first_at": row.first_at,
                    "last_at": row.last_at,
                    **_status(budget, each),
                    "window": row.window.partition("/")[0],
                }
                for row, each in zip(page, counters.statuses(budget, page), strict=True)
            ]
        )

    def _one(self, budget: Budget, code: int = status.HTTP_200_OK) -> Response:
        return Response(_views([budget], self.now)[0], status=code)


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


def _subject(body: Mapping[str, Any]) -> tuple[str, str]:
    places = [name for name in _PLACES if body.get(name)]
    if len(places) != 1:
        raise ValidationError({"organization": f"Exactly one of {', '.join(_PLACES)}."})
    place = places[0]
    each = body.get("each")
    if each and place != "project":
        raise ValidationError({"each": "Agents and runs belong to a project."})
    return each or place, body[place]


def _views(found: Sequence[Budget], now: datetime) -> list[dict[str, Any]]:
    current = counters.current(found, now)
    return [_view(budget, current.get(budget.id)) for budget in found]


def _view(budget: Budget, current: counters.Status | None) -> dict[str, Any]:
    unit = next(name for name, kept in _UNITS.items() if kept == budget.unit)
    return {
        "id": budget.id,
        "object": "budget",
        "organization": budget.organization_id,
        "subject": budget.subject,
        "subject_id": budget.subject_id,
        "agent": budget.name,
        "unit": unit,
        "amount": shown(budget.amount, budget.unit),
        "allowance": shown(budget.allowance, budget.unit),
        "window": budget.window,
        "time_zone": budget.time_zone,
        "hard": budget.hard,
        "created_at": budget.created_at,
        "status": _status(budget, current) if current else None,
    }


def _status(budget: Budget, current: counters.Status) -> dict[str, Any]:
    return {
        "window": current.window,
        "spent": shown(current.spent, budget.unit),
        "outstanding": shown(current.outstanding, budget.unit),
        "remaining": shown(current.remaining, budget.unit),
        "calls": current.calls,
    }


def _used(by: runs.Grouping, used: runs.Used) -> dict[str, Any]:
    return {
        "object": "run_usage",
        "by": by,
        "key": used.key,
        "eur": shown(used.nano_eur, Unit.NANO_EUR),
        "input_tokens": used.input_tokens,
        "cached_tokens": used.cached_tokens,
        "output_tokens": used.output_tokens,
        "calls": used.calls,
        "first_at": used.first_at,
        "last_at": used.last_at,
    }
