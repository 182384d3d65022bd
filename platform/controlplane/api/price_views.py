"""What things cost an organization, what is agreed with it; and the operator's ways to say so."""

from decimal import Decimal
from typing import Any

from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework import serializers, status
from rest_framework.decorators import action
from rest_framework.exceptions import ValidationError
from rest_framework.request import Request
from rest_framework.response import Response

from billing import rating
from billing.models import Account, Meter, Price, Term, TermKind
from billing.pricing import agreements, price_list, prices
from billing.pricing.terms import Allowance, Commitment, Tier
from compliance import audit
from controlplane.api.idempotency import idempotent
from controlplane.api.views import HouseViewSet
from controlplane.tenancy import access
from controlplane.tenancy.access import Permission
from controlplane.tenancy.errors import NotFound
from controlplane.tenancy.models import Organization


class ListedView(serializers.Serializer[Any]):
    sku = serializers.CharField()
    meter = serializers.ChoiceField(choices=Meter.choices)
    device_kind = serializers.CharField(help_text="Empty: every kind without a price of its own.")
    unit_size = serializers.IntegerField(help_text="How many of the meter the amount is for.")
    amount = serializers.CharField(allow_null=True, help_text="Null: no price at the moment.")
    price = serializers.CharField(source="price_id")
    valid_from = serializers.DateTimeField(allow_null=True)
    own = serializers.BooleanField(help_text="The organization's own, in place of the list's.")
    list_amount = serializers.CharField(allow_null=True)
    next_at = serializers.DateTimeField(allow_null=True)
    next_amount = serializers.CharField(allow_null=True, help_text="Null: no price from then on.")


class TermView(serializers.ModelSerializer[Term]):
    object = serializers.CharField(default="term", read_only=True)
    amount = serializers.SerializerMethodField()

    class Meta:
        model = Term
        fields = (
            *("id", "object", "kind", "meter", "device_kind", "quantity", "discount", "amount"),
            *("currency", "note", "valid_from"),
        )

    def get_amount(self, term: Term) -> str:
        return f"{term.amount // 100}.{term.amount % 100:02d}"


class PriceListView(serializers.Serializer[Any]):
    object = serializers.CharField()
    organization = serializers.CharField()
    currency = serializers.CharField()
    at = serializers.DateTimeField()
    prices = ListedView(many=True)
    terms = TermView(many=True)
    never_billed = serializers.ListField(child=serializers.CharField())
    egress = serializers.CharField(help_text="0.00: traffic is not charged for.")


class PriceView(serializers.ModelSerializer[Price]):
    object = serializers.CharField(default="price", read_only=True)
    amount = serializers.CharField()
    account = serializers.CharField(source="account_id", allow_null=True)

    class Meta:
        model = Price
        fields = (
            *("id", "object", "account", "meter", "device_kind", "currency", "amount"),
            *("valid_from", "valid_to"),
        )


class ThingBody(serializers.Serializer[Any]):
    organization = serializers.CharField(default="", help_text="Whose own; empty: the list's.")
    meter = serializers.ChoiceField(choices=Meter.choices)
    device_kind = serializers.CharField(default="", allow_blank=True, max_length=64)
    currency = serializers.CharField(default="EUR")


class PriceBody(ThingBody):
    amount = serializers.DecimalField(max_digits=18, decimal_places=12, min_value=0)
    valid_from = serializers.DateTimeField()
    valid_to = serializers.DateTimeField(default=None, allow_null=True)


class WithdrawBody(ThingBody):
    at = serializers.DateTimeField()


class TermBody(serializers.Serializer[Any]):
    organization = serializers.CharField()
    kind = serializers.ChoiceField(choices=TermKind.choices)
    valid_from = serializers.DateTimeField(help_text="The start of a month (UTC).")
    meter = serializers.ChoiceField(choices=Meter.choices, default="", allow_blank=True)
    device_kind = serializers.CharField(default="", allow_blank=True, max_length=64)
    quantity = serializers.IntegerField(
        default=0, min_value=0, max_value=2**53, help_text="Free, or passed by a tier."
    )
    discount = serializers.IntegerField(default=0, min_value=0, max_value=rating.WHOLE)
    amount = serializers.DecimalField(
        max_digits=14, decimal_places=2, min_value=0, default=Decimal(0)
    )
    note = serializers.CharField(default="", allow_blank=True, max_length=100)


class Prices(HouseViewSet):
    serializer_class = PriceView
    queryset = Price.objects.none()

    @extend_schema(parameters=[OpenApiParameter("organization", str)], responses=PriceListView)
    def list(self, request: Request) -> Response:
        """What holds now for the organization (a key's own if left out), and what is agreed."""
        id = request.query_params.get("organization") or self.principal.organization_id or ""
        organization = access.organization(self.principal, id, Permission.READ)
        account: Account = organization.account
        shown = {
            "object": "price_list",
            "organization": organization.id,
            "currency": account.currency,
            "at": self.now,
            "prices": price_list.at(
                prices.versions(account.currency, account.id),
                self.now,
                currency=account.currency,
                account_id=account.id,
            ),
            "terms": Term.objects.filter(account=account).order_by("valid_from", "id"),
            "never_billed": price_list.NEVER_BILLED,
            "egress": "0.00",
        }
        return Response(PriceListView(shown).data)

    @extend_schema(request=PriceBody, responses={201: PriceView})
    @idempotent
    def create(self, request: Request) -> Response:
        """Publish a version: the list's, or an organization's own, which beats it."""
        access.operator(self.principal)
        body = self.checked(request, PriceBody)
        row = prices.publish(**self._whose(body.pop("organization")), **body)
        return Response(PriceView(row).data, status=status.HTTP_201_CREATED)

    @extend_schema(request=WithdrawBody, responses={201: PriceView})
    @action(detail=False, methods=["post"])
    @idempotent
    def withdraw(self, request: Request) -> Response:
        """There is no such price from some moment on."""
        access.operator(self.principal)
        body = self.checked(request, WithdrawBody)
        row = prices.withdraw(**self._whose(body.pop("organization")), **body)
        return Response(PriceView(row).data, status=status.HTTP_201_CREATED)

    @extend_schema(request=TermBody, responses={201: TermView})
    @action(detail=False, methods=["post"])
    @idempotent
    def terms(self, request: Request) -> Response:
        """Agree on an allowance, a monthly minimum or a tier, from a month to come on."""
        access.operator(self.principal)
        body = self.checked(request, TermBody)
        organization = _any(body["organization"])
        row = agreements.agree(
            **self._whose(organization.id), term=_term(body, organization.account.currency)
        )
        return Response(TermView(row).data, status=status.HTTP_201_CREATED)

    def _whose(self, organization_id: str) -> dict[str, Any]:
        who: dict[str, Any] = {"actor": self.principal.actor, "now": self.now}
        if not organization_id:
            return {**who, "log": audit.PLATFORM}
        organization = _any(organization_id)
        return {**who, "account_id": organization.account_id, "log": organization.id}


def _any(id: str) -> Organization:
    """For the operator: whichever there is."""
    found = Organization.objects.select_related("account").filter(id=id).first()
    if found is None:
        raise NotFound("organization")
    return found


def _term(body: dict[str, Any], currency: str) -> Allowance | Commitment | Tier:
    """Raises ValidationError where the fields make no such term."""
    start, note = body["valid_from"], body["note"]
    what = {"meter": body["meter"], "device_kind": body["device_kind"]}
    try:
        if body["kind"] == TermKind.COMMITMENT:
            if any(what.values()) or body["quantity"] or body["discount"]:
                raise ValueError("a commitment is an amount alone")
            return Commitment("", start, body["amount"], currency, note)
        if body["kind"] == TermKind.TIER:
            if body["amount"]:
                raise ValueError("a tier has a discount, and no amount")
            return Tier(
                "", start, over=body["quantity"], discount=body["discount"], note=note, **what
            )
        if body["discount"]:
            raise ValueError("an allowance has no discount")
        return Allowance(
            "", start, **what, quantity=body["quantity"], amount=body["amount"],
            currency=currency, note=note,
        )  # fmt: skip
    except ValueError as error:
        raise ValidationError({"kind": f"{error}."}) from error
