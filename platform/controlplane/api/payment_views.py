"""Means of payment that Stripe keeps, and paying an invoice by one of them."""

from typing import Any

from django.urls import reverse
from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework import serializers, status
from rest_framework.request import Request
from rest_framework.response import Response

from billing.payments.stripe import client, configuration, hosted, paying, setup
from billing.payments.stripe.models import StripeMethod, StripePayment
from controlplane.api.idempotency import idempotent
from controlplane.api.views import HouseViewSet
from controlplane.tenancy import collecting
from controlplane.tenancy.access import Permission

# Stripe puts the id of the page in here when the person is sent back.
SESSION = "{CHECKOUT_SESSION_ID}"


class MethodView(serializers.Serializer[Any]):
    id = serializers.CharField()
    object = serializers.CharField(default="payment_method")
    kind = serializers.CharField(help_text="card or sepa_debit.")
    brand = serializers.CharField(help_text="Of a card.")
    last4 = serializers.CharField()
    country = serializers.CharField()
    expires = serializers.CharField(help_text="2031-04, of a card.")
    mandate = serializers.CharField(help_text="The reference that the bank shows, of a debit.")
    created_at = serializers.DateTimeField()


class PageView(serializers.Serializer[Any]):
    object = serializers.CharField(help_text="payment_method_page or payment_page.")
    url = serializers.CharField(help_text="Stripe's page, for a person's browser.")


class CollectionView(serializers.Serializer[Any]):
    id = serializers.CharField()
    object = serializers.CharField(default="collection")
    invoice = serializers.CharField(source="invoice_id")
    amount = serializers.SerializerMethodField()
    currency = serializers.CharField()
    state = serializers.CharField(
        help_text="asked, offered (on Stripe's page), processing, succeeded, failed or canceled."
    )
    reason = serializers.CharField(help_text="Of a failure, in Stripe's words.")
    created_at = serializers.DateTimeField()
    closed_at = serializers.DateTimeField(allow_null=True)

    def get_amount(self, payment: StripePayment) -> str:
        return f"{payment.amount // 100}.{payment.amount % 100:02d}"


class PageBody(serializers.Serializer[Any]):
    organization = serializers.CharField()


class PaymentMethods(HouseViewSet):
    serializer_class = MethodView
    queryset = StripeMethod.objects.none()

    @extend_schema(
        parameters=[OpenApiParameter("organization", str, required=False)],
        responses=MethodView(many=True),
        description="Newest first: that one is used. Card numbers are Stripe's to keep.",
    )
    def list(self, request: Request) -> Response:
        rows = collecting.methods(self.principal)
        if wanted := request.query_params.get("organization"):
            found = collecting.organization(self.principal, wanted, Permission.VIEW_COSTS)
            rows = rows.filter(account_id=found.account_id)
        return self.page(rows, MethodView)

    @extend_schema(request=PageBody, responses={201: PageView})
    @idempotent
    def create(self, request: Request) -> Response:
        """Opens a page at Stripe on which a card or a bank account is given."""
        body = self.checked(request, PageBody)
        found = collecting.organization(self.principal, body["organization"], collecting.PAY)
        here = request.build_absolute_uri(reverse("frontend:payment-methods"))
        page = setup.begin(
            client.connect(),
            found.account_id,
            success_url=f"{here}?session={SESSION}",
            cancel_url=here,
            now=self.now,
        )
        shown = {"object": "payment_method_page", "url": page.url}
        return Response(shown, status=status.HTTP_201_CREATED)

    @extend_schema(responses={204: None})
    def destroy(self, request: Request, pk: str) -> Response:
        found = collecting.method(self.principal, pk, collecting.PAY)
        setup.detach(found.method, actor=self.principal.actor, now=self.now)
        return Response(status=status.HTTP_204_NO_CONTENT)


class Collections(HouseViewSet):
    """Below an invoice: what Stripe was asked to collect of it."""

    serializer_class = CollectionView
    queryset = StripePayment.objects.none()

    @extend_schema(responses=CollectionView(many=True))
    def list(self, request: Request, pk: str) -> Response:
        found = collecting.invoice(self.principal, pk, Permission.VIEW_COSTS)
        rows = StripePayment.objects.filter(invoice_id=found.id).order_by("-id")
        return self.page(rows, CollectionView)

    @extend_schema(request=None, responses={202: CollectionView})
    def create(self, request: Request, pk: str) -> Response:
        """Collects what is open with the newest means of payment."""
        found = collecting.invoice(self.principal, pk, collecting.PAY)
        configuration.required()
        made = paying.pay(found.id, actor=self.principal.actor, now=self.now)
        return Response(CollectionView(made).data, status=status.HTTP_202_ACCEPTED)


class Pages(HouseViewSet):
    """Below an invoice: the page at Stripe on which a person pays it."""

    serializer_class = PageView
    queryset = StripePayment.objects.none()

    @extend_schema(request=None, responses={201: PageView})
    def create(self, request: Request, pk: str) -> Response:
        """A page for what is open of the invoice, for an hour; the same while it is open.

        Here a card's holder can do what its bank asks (`authentication_required`).
        """
        found = collecting.invoice(self.principal, pk, collecting.PAY)
        here = request.build_absolute_uri(reverse("frontend:payment-methods"))
        page = hosted.begin(
            client.connect(),
            found.id,
            success_url=f"{here}?paid={SESSION}",
            cancel_url=here,
            actor=self.principal.actor,
            now=self.now,
        )
        shown = {"object": "payment_page", "url": page.url}
        return Response(shown, status=status.HTTP_201_CREATED)
