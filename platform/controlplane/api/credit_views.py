"""Credit, what is left of it, and payments. Money is text, in euro."""

from decimal import Decimal
from typing import Any

from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework import serializers, status
from rest_framework.decorators import action
from rest_framework.exceptions import ValidationError
from rest_framework.request import Request
from rest_framework.response import Response

from billing import errors
from billing.credit import credits, vouchers
from billing.credit.models import CreditKind
from billing.models import CreditGrant, Customer, Payment, TopUpDecision
from billing.spending import funds
from controlplane.api.idempotency import idempotent
from controlplane.api.views import HouseViewSet
from controlplane.tenancy import access
from controlplane.tenancy.access import Permission
from controlplane.tenancy.models import Organization

_PLACE = OpenApiParameter("organization", str, required=True)


class CentsField(serializers.Field[int, Any, str, Any]):
    """Whole cents as text in euro."""

    def to_representation(self, value: int) -> str:
        return format(Decimal(value).scaleb(-2), "f")


class GrantView(serializers.ModelSerializer[CreditGrant]):
    object = serializers.CharField(default="credit", read_only=True)
    amount = CentsField(read_only=True)
    left = CentsField(read_only=True)
    tax = CentsField(read_only=True, help_text="Of the amount, what an advance invoice taxed.")
    payment = serializers.CharField(source="payment_id")
    invoice = serializers.CharField(source="invoice_id", help_text="The advance invoice.")
    treatment = serializers.SerializerMethodField(
        help_text="Of its VAT: no_consideration (it was given), advance_invoice,"
        " multi_purpose_credit (taxed when it is used); waiting: `because` says for what."
    )
    because = serializers.SerializerMethodField()

    class Meta:
        model = CreditGrant
        fields = (
            *("id", "object", "kind", "amount", "left", "currency", "granted_at", "expires_at"),
            *("note", "payment", "tax", "treatment", "because", "invoice"),
        )

    def get_treatment(self, grant: CreditGrant) -> str:
        if grant.kind != CreditKind.BOUGHT:
            return "no_consideration"
        return getattr(decided(grant), "treatment", "") or "waiting"

    def get_because(self, grant: CreditGrant) -> str:
        return getattr(decided(grant), "because", "")


def decided(grant: CreditGrant) -> TopUpDecision | None:
    """How its VAT is treated, or what that waits for; None for what nobody has looked at yet."""
    try:
        return grant.top_up
    except TopUpDecision.DoesNotExist:
        return None


class FundsView(serializers.Serializer[Any]):
    organization = serializers.CharField()
    object = serializers.CharField(default="balance")
    mode = serializers.ChoiceField(choices=("prepaid", "postpaid", "none"))
    free = serializers.CharField(help_text="Given: it is taken off before VAT.")
    bought = serializers.CharField(help_text="It pays what an invoice comes to after VAT.")
    ends_at = serializers.DateTimeField(allow_null=True, help_text="When the first of it ends.")
    available = serializers.CharField(
        allow_null=True, help_text="What can still be used, without VAT; null: nothing bounds it."
    )
    unbilled = serializers.CharField(help_text="Used, and on no invoice yet; without VAT.")
    open_invoices = serializers.CharField()
    used_percent = serializers.IntegerField(allow_null=True)
    days_left = serializers.CharField(allow_null=True, help_text="At the pace of the last day.")


class RedeemBody(serializers.Serializer[Any]):
    organization = serializers.CharField()
    code = serializers.CharField(max_length=64)


class PaymentView(serializers.ModelSerializer[Payment]):
    object = serializers.CharField(default="payment", read_only=True)
    amount = CentsField(read_only=True)
    back = CentsField(read_only=True, help_text="How much of it went back.")
    allocations = serializers.SerializerMethodField(help_text="What it is for, newest last.")

    class Meta:
        model = Payment
        fields = (
            *("id", "object", "amount", "back", "currency", "method", "received_at"),
            *("reference", "allocations"),
        )

    def get_allocations(self, payment: Payment) -> list[dict[str, Any]]:
        return [
            {
                "purpose": one.purpose,
                "invoice": one.invoice.label if one.invoice else None,
                "amount": format(Decimal(one.amount).scaleb(-2), "f"),
            }
            for one in sorted(payment.allocations.all(), key=lambda one: one.id)
        ]


class _OfOrganization(HouseViewSet):
    def organization(self, id: str, need: Permission = Permission.VIEW_COSTS) -> Organization:
        if not id:
            raise ValidationError({"organization": "Whose?"})
        return access.organization(self.principal, id, need)


class Credits(_OfOrganization):
    """Credit that was given or bought, in all that it was: used up and ended ones too."""

    serializer_class = GrantView
    queryset = CreditGrant.objects.none()

    @extend_schema(parameters=[_PLACE], responses=GrantView(many=True))
    def list(self, request: Request) -> Response:
        of = self.organization(request.query_params.get("organization", ""))
        found = CreditGrant.objects.filter(account_id=of.account_id)
        return self.page(found.select_related("top_up"), GrantView)

    @extend_schema(parameters=[_PLACE], responses=FundsView)
    @action(detail=False, methods=["get"])
    def balance(self, request: Request) -> Response:
        """What the organization can still spend, and how long that lasts."""
        of = self.organization(request.query_params.get("organization", ""))
        return Response(shown(of, self.now))

    @extend_schema(request=RedeemBody, responses={201: GrantView})
    @action(detail=False, methods=["post"])
    @idempotent
    def redeem(self, request: Request) -> Response:
        """Use a voucher's code: its credit is the organization's."""
        body = self.checked(request, RedeemBody)
        of = self.organization(body["organization"], Permission.MANAGE_PROJECTS)
        try:
            made = vouchers.redeem(
                of.account_id, body["code"], actor=self.principal.actor, now=self.now
            )
        except errors.CreditRefused as error:
            raise ValidationError({"code": str(error)}) from error
        return Response(GrantView(made).data, status=status.HTTP_201_CREATED)


class Payments(_OfOrganization):
    """What came in, and what it is for. The newest first."""

    serializer_class = PaymentView
    queryset = Payment.objects.none()

    @extend_schema(parameters=[_PLACE], responses=PaymentView(many=True))
    def list(self, request: Request) -> Response:
        of = self.organization(request.query_params.get("organization", ""))
        rows = Payment.objects.filter(account_id=of.account_id)
        return self.page(rows.prefetch_related("allocations__invoice"), PaymentView)


def shown(of: Organization, now: Any) -> dict[str, Any]:
    """A balance as the API and the console say it."""
    credit = credits.balance(of.account_id, now)
    customer = Customer.objects.select_related("entity").filter(account_id=of.account_id).first()
    found = funds.of(customer, now) if customer else None
    bounded = customer is not None and (
        customer.mode == "prepaid" or customer.credit_limit is not None
    )
    return {
        "organization": of.id,
        "object": "balance",
        "mode": customer.mode if customer else "none",
        "free": _euro(credit.free),
        "bought": _euro(credit.bought),
        "ends_at": credit.ends_at,
        "available": _euro(max(0, found.available) // 10**7) if found and bounded else None,
        "unbilled": _euro(
            (found.unbilled if found else funds.unbilled(of.account_id, now)) // 10**7
        ),
        "open_invoices": _euro(found.open if found else 0),
        "used_percent": found.used_percent if found and bounded else None,
        "days_left": str(found.days_left) if found and bounded and found.days_left else None,
    }


def _euro(cents: int) -> str:
    return format(Decimal(cents).scaleb(-2), "f")
