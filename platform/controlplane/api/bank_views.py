"""The bank account, for the operator: statements in, movements to decide, debit files out."""

import binascii
from base64 import b64decode
from typing import Any

from django.http import HttpResponse
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import extend_schema
from rest_framework import serializers, status
from rest_framework.decorators import action
from rest_framework.exceptions import ValidationError
from rest_framework.request import Request
from rest_framework.response import Response

from billing import errors
from billing.models import BankEntry, BankStatement, CollectionFile
from billing.payments import debits, statements
from billing.sepa.statements import StatementRefused
from controlplane.api.credit_views import CentsField
from controlplane.api.views import HouseViewSet
from controlplane.tenancy import access
from controlplane.tenancy.errors import NotFound

FILE_MAX = 20_000_000  # signs of base64


class EntryView(serializers.ModelSerializer[BankEntry]):
    object = serializers.CharField(default="bank_entry", read_only=True)
    amount = CentsField(read_only=True)
    rest = CentsField(read_only=True, help_text="What somebody must still decide.")
    payment = serializers.CharField(source="payment_id", allow_null=True)

    class Meta:
        model = BankEntry
        fields = (
            *("id", "object", "booked_on", "amount", "rest", "party", "party_iban", "remittance"),
            *("end_to_end", "outcome", "because", "candidates", "payment"),
        )


class StatementView(serializers.ModelSerializer[BankStatement]):
    object = serializers.CharField(default="bank_statement", read_only=True)
    opening = CentsField(read_only=True, allow_null=True)
    closing = CentsField(read_only=True, allow_null=True)

    class Meta:
        model = BankStatement
        fields = (
            *("id", "object", "iban", "name", "sequence", "sha256", "opening", "closing"),
            *("entries", "read_at"),
        )


class StatementBody(serializers.Serializer[Any]):
    content = serializers.CharField(
        max_length=FILE_MAX, help_text="A camt.053 file, in base64: read whole, or not at all."
    )


class DecisionBody(serializers.Serializer[Any]):
    """Exactly one of account, payment and what."""

    account = serializers.CharField(required=False, help_text="It was this customer's payment.")
    invoices = serializers.ListField(child=serializers.CharField(), required=False)
    payment = serializers.CharField(required=False, help_text="It was the refund of this payment.")
    what = serializers.ChoiceField(choices=("fee", "own", "payout"), required=False)


class FileView(serializers.ModelSerializer[CollectionFile]):
    object = serializers.CharField(default="collection_file", read_only=True)
    amount = CentsField(read_only=True)

    class Meta:
        model = CollectionFile
        fields = ("id", "object", "message", "sha256", "debits", "amount", "created_at")


class _Operators(HouseViewSet):
    def initial(self, request: Request, *args: Any, **kwargs: Any) -> None:
        super().initial(request, *args, **kwargs)
        access.operator(self.principal)


class BankStatements(_Operators):
    serializer_class = StatementView
    queryset = BankStatement.objects.none()

    @extend_schema(responses=StatementView(many=True))
    def list(self, request: Request) -> Response:
        return self.page(BankStatement.objects.all(), StatementView)

    @extend_schema(request=StatementBody, responses={201: StatementView(many=True)})
    def create(self, request: Request) -> Response:
        """Book a file; the same file again books nothing more."""
        body = self.checked(request, StatementBody)
        try:
            data = b64decode(body["content"], validate=True)
            done = statements.read(data, actor=self.principal.actor, now=self.now)
        except binascii.Error as error:
            raise ValidationError({"content": "It is no base64."}) from error
        except (StatementRefused, errors.PaymentRefused) as error:
            raise ValidationError({"content": f"{error.code}: {error}"}) from error
        found = [each.statement for each in done]
        return Response(StatementView(found, many=True).data, status=status.HTTP_201_CREATED)


class BankEntries(_Operators):
    """Movements that nobody has explained yet."""

    serializer_class = EntryView
    queryset = BankEntry.objects.none()

    @extend_schema(responses=EntryView(many=True))
    def list(self, request: Request) -> Response:
        return self.page(BankEntry.objects.exclude(rest=0), EntryView)

    @extend_schema(request=DecisionBody, responses=EntryView)
    @action(detail=True, methods=["post"])
    def decide(self, request: Request, pk: str) -> Response:
        body = self.checked(request, DecisionBody)
        who: dict[str, Any] = {"actor": self.principal.actor, "now": self.now}
        if sum(bool(body.get(name)) for name in ("account", "payment", "what")) != 1:
            raise ValidationError({"what": "Exactly one of account, payment and what."})
        try:
            if body.get("account"):
                invoices = body.get("invoices", ())
                found = statements.assign(pk, body["account"], invoice_ids=invoices, **who)
            elif body.get("payment"):
                found = statements.refunded(pk, body["payment"], **who)
            else:
                found = statements.explain(pk, body["what"], **who)
        except (errors.PaymentRefused, errors.UnknownAccount) as error:
            raise ValidationError({"what": f"{error.code}: {error}"}) from error
        return Response(EntryView(found).data)


class CollectionFiles(_Operators):
    """Files of direct debits (pain.008) for the bank."""

    serializer_class = FileView
    queryset = CollectionFile.objects.none()

    @extend_schema(responses=FileView(many=True))
    def list(self, request: Request) -> Response:
        return self.page(CollectionFile.objects.defer("content"), FileView)

    @extend_schema(request=None, responses={201: FileView(many=True)})
    def create(self, request: Request) -> Response:
        """Collect what was announced and is near: a file for each of our legal entities."""
        made = debits.collect(actor=self.principal.actor, now=self.now)
        return Response(FileView(made, many=True).data, status=status.HTTP_201_CREATED)

    @extend_schema(responses={(200, "application/xml"): OpenApiTypes.BINARY})
    @action(detail=True, methods=["get"])
    def content(self, request: Request, pk: str) -> HttpResponse:
        found = CollectionFile.objects.filter(pk=pk).first()
        if found is None:
            raise NotFound("file")
        named = {"Content-Disposition": f'attachment; filename="{found.message}.xml"'}
        return HttpResponse(bytes(found.content), content_type="application/xml", headers=named)
