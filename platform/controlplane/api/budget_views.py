"""Budgets, and what is spent of them. Money is text, in euro."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from typing import Any

from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework import serializers, status
from rest_framework.decorators import action
from rest_framework.exceptions import ValidationError
from rest_framework.request import Request
from rest_framework.response import Response

from billing.models import Budget, BudgetWindow, Period, Subject, Unit
from billing.spending import budgets, counters
from controlplane.api.idempotency import idempotent
from controlplane.api.views import HouseViewSet
from controlplane.tenancy import spending
from controlplane.tenancy.access import Permission

EUR = "eur"
_UNITS = {EUR: Unit.NANO_EUR, "tokens": Unit.TOKENS, "calls": Unit.CALLS}
_PLACES = ("organization", "project", "key")


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
    managed = serializers.BooleanField(
        help_text="Set by billing: what the account can pay. Nobody changes it by hand."
    )
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
        "managed": budget.by_billing,
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
