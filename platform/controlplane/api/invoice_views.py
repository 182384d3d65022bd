"""Invoices and their files, billing profiles, and the entity that issues. Money is text."""

import tempfile
from typing import Any

from django.http import FileResponse, HttpResponse
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework import serializers
from rest_framework.decorators import action
from rest_framework.exceptions import APIException, ValidationError
from rest_framework.request import Request
from rest_framework.response import Response

from billing.einvoice.ubl import Profile
from billing.invoices import (
    archive,
    bundle,
    crediting,
    evidence,
    freezing,
    invoicing,
    profiles,
    vault,
)
from billing.invoices.drawing import plain
from billing.invoices.models import Form
from billing.models import Customer, Entity, Invoice, InvoiceLine
from compliance.log import signing
from controlplane.api.views import HouseViewSet
from controlplane.tenancy import access, invoice_access
from controlplane.tenancy.access import Permission
from controlplane.tenancy.errors import NotFound

_PROFILES = {"xrechnung": Profile.XRECHNUNG, "peppol": Profile.PEPPOL}
_TYPES = {Form.PDF: "application/pdf", Form.CII: "application/xml", Form.JSON: "application/json"}


def shown(cents: int) -> str:
    """Two decimals."""
    sign, whole = "-" if cents < 0 else "", abs(cents)
    return f"{sign}{whole // 100}.{whole % 100:02d}"


class Unsigned(APIException):
    status_code = 503
    default_code = "signer_away"
    default_detail = "the signer does not answer: try again later"


class Cents(serializers.Field[int, Any, str, Any]):
    """Whole cents, as text with two decimals."""

    def to_representation(self, value: int) -> str:
        return shown(value)


class LineView(serializers.ModelSerializer[InvoiceLine]):
    project = serializers.CharField(source="project_id")
    endpoint = serializers.CharField(source="endpoint_id")
    unit_amount = serializers.SerializerMethodField()
    amount = serializers.SerializerMethodField()

    class Meta:
        model = InvoiceLine
        fields = (
            *("position", "kind", "project", "project_name", "endpoint", "endpoint_name"),
            *("meter", "device_kind", "share", "price_id", "unit_amount", "unit_size"),
            *("quantity", "amount", "start", "end", "note"),
        )

    def get_unit_amount(self, line: InvoiceLine) -> str:
        return f"{plain(line.unit_amount):f}"

    def get_amount(self, line: InvoiceLine) -> str:
        return shown(line.amount)


class InvoiceView(serializers.ModelSerializer[Invoice]):
    """`held_reason` says why a draft is not final yet. A draft's VAT may not be decided."""

    object = serializers.CharField(default="invoice", read_only=True)
    account = serializers.CharField(source="account_id")
    number = serializers.CharField(source="label")
    net = serializers.SerializerMethodField()
    vat = serializers.SerializerMethodField()
    gross = serializers.SerializerMethodField()
    prepaid = serializers.SerializerMethodField()
    due = serializers.SerializerMethodField()
    settled = serializers.SerializerMethodField()
    vat_decision = serializers.SerializerMethodField()
    corrects = serializers.CharField(source="corrects_id", allow_null=True)

    class Meta:
        model = Invoice
        fields = (
            *("id", "object", "account", "kind", "state", "number", "period_start", "period_end"),
            *("issued_on", "due_on", "currency", "net", "vat", "gross", "prepaid", "due"),
            *("settled", "vat_decision", "held_reason", "held_because", "corrects", "reason"),
            *("drafted_at", "final_at", "json_sha256", "xml_sha256", "pdf_sha256"),
        )

    def get_net(self, invoice: Invoice) -> str:
        return shown(invoice.net)

    def get_vat(self, invoice: Invoice) -> str:
        return shown(invoice.vat)

    def get_gross(self, invoice: Invoice) -> str:
        return shown(invoice.gross)

    def get_prepaid(self, invoice: Invoice) -> str:
        return shown(invoice.prepaid)

    def get_due(self, invoice: Invoice) -> str:
        return shown(invoice.due)

    def get_settled(self, invoice: Invoice) -> str:
        return shown(invoice.settled)

    def get_vat_decision(self, invoice: Invoice) -> dict[str, Any]:
        kept = invoice.decision
        wanted = ("outcome", "reason", "because", "category", "rate", "articles")
        return {name: kept[name] for name in wanted if name in kept}


class InvoiceDetail(InvoiceView):
    lines = serializers.SerializerMethodField()

    class Meta:
        model = Invoice
        fields = (*InvoiceView.Meta.fields, "lines")

    @extend_schema(responses=LineView(many=True))
    def get_lines(self, invoice: Invoice) -> Any:
        return LineView(invoice.lines.order_by("position"), many=True).data


class Why(serializers.Serializer[Any]):
    reason = serializers.CharField(max_length=crediting.MAX_REASON)


_XML = {(200, "application/xml"): OpenApiTypes.BINARY}


class Invoices(HouseViewSet):
    """Of the organizations whose costs one may see; what changes them is the operator's."""

    serializer_class = InvoiceView
    queryset = Invoice.objects.none()

    @extend_schema(
        parameters=[OpenApiParameter(name, str) for name in ("organization", "state", "kind")],
        responses=InvoiceView(many=True),
    )
    def list(self, request: Request) -> Response:
        found = invoice_access.invoices(self.principal)
        if wanted := request.query_params.get("organization"):
            organization = access.organization(self.principal, wanted, Permission.VIEW_COSTS)
            found = found.filter(account_id=organization.account_id)
        if state := request.query_params.get("state"):
            found = found.filter(state=state)
        if kind := request.query_params.get("kind"):
            found = found.filter(kind=kind)
        return self.page(found, InvoiceView)

    @extend_schema(responses=InvoiceDetail)
    def retrieve(self, request: Request, pk: str) -> Response:
        return Response(InvoiceDetail(invoice_access.invoice(self.principal, pk)).data)

    @extend_schema(responses={(200, "application/pdf"): OpenApiTypes.BINARY})
    @action(detail=True)
    def pdf(self, request: Request, pk: str) -> HttpResponse:
        return self._file(pk, Form.PDF, "pdf")

    @extend_schema(responses=_XML)
    @action(detail=True)
    def xml(self, request: Request, pk: str) -> HttpResponse:
        """CII, as it is in the PDF."""
        return self._file(pk, Form.CII, "xml")

    @extend_schema(responses={(200, "application/json"): OpenApiTypes.OBJECT})
    @action(detail=True)
    def json(self, request: Request, pk: str) -> HttpResponse:
        """The frozen document, canonical: its SHA-256 is in the audit log."""
        return self._file(pk, Form.JSON, "json")

    @extend_schema(
        parameters=[OpenApiParameter("profile", str, enum=tuple(_PROFILES))], responses=_XML
    )
    @action(detail=True)
    def ubl(self, request: Request, pk: str) -> HttpResponse:
        """XRechnung 3.0 or Peppol BIS 3, made when it is asked for."""
        wanted = request.query_params.get("profile", "xrechnung")
        if wanted not in _PROFILES:
            raise ValidationError({"profile": f"One of {', '.join(_PROFILES)}."})
        invoice = invoice_access.invoice(self.principal, pk)
        xml = freezing.ubl_of(invoice, _PROFILES[wanted])
        return download(xml, "application/xml", f"{invoice.label}-{wanted}.xml")

    @extend_schema(responses={(200, "application/zip"): OpenApiTypes.BINARY})
    @action(detail=True)
    def evidence(self, request: Request, pk: str) -> FileResponse:
        """What it was made of: `stoa billing recompute` computes it again from this alone."""
        invoice = invoice_access.invoice(self.principal, pk)
        source = evidence.Stored(invoice)
        file = tempfile.TemporaryFile()  # noqa: SIM115 - the answer closes it
        try:
            bundle.write(source, file, evidence.signature(invoice))
        except signing.SignerAway as error:
            file.close()
            raise Unsigned from error
        file.seek(0)
        return FileResponse(file, as_attachment=True, filename=f"{invoice.id}-evidence.zip")

    @extend_schema(request=None, responses=InvoiceView)
    @action(detail=True, methods=["post"])
    def finalise(self, request: Request, pk: str) -> Response:
        access.operator(self.principal)
        invoice = invoice_access.invoice(self.principal, pk)
        made = invoicing.finalise(invoice.id, self.principal.actor, self.now)
        if made is None:
            raise NotFound("invoice")
        return Response(InvoiceView(made).data)

    @extend_schema(request=Why, responses=InvoiceView)
    @action(detail=True, methods=["post"])
    def credit(self, request: Request, pk: str) -> Response:
        """The credit note that takes it back, whole."""
        return self._undo(request, pk, crediting.credit)

    @extend_schema(request=Why, responses=InvoiceView)
    @action(detail=True, methods=["post"], url_path="write-off")
    def write_off(self, request: Request, pk: str) -> Response:
        return self._undo(request, pk, crediting.write_off)

    def _undo(self, request: Request, pk: str, verb: Any) -> Response:
        access.operator(self.principal)
        invoice = invoice_access.invoice(self.principal, pk)
        reason = self.checked(request, Why)["reason"]
        return Response(InvoiceView(verb(invoice.id, reason, self.principal.actor, self.now)).data)

    def _file(self, pk: str, form: Form, ending: str) -> HttpResponse:
        invoice = invoice_access.invoice(self.principal, pk)
        content = freezing.content(invoice, form)
        return download(content, _TYPES[form], f"{invoice.label}.{ending}")


class DueView(serializers.Serializer[archive.Due]):
    invoice = serializers.CharField(source="invoice_id")
    number = serializers.CharField(source="label")
    account = serializers.CharField(source="account_id")
    forms = serializers.ListField(child=serializers.CharField())
    size = serializers.IntegerField(help_text="Bytes.")
    kept_until = serializers.DateField()


class VaultBody(serializers.Serializer[Any]):
    invoice = serializers.CharField()
    form = serializers.ChoiceField([str(one) for one in Form])
    reason = serializers.CharField(max_length=vault.MAX_REASON)


class Archive(HouseViewSet):
    """Files whose retention is over, and the accounting vault; the operator's alone. `stoa billing
    archive` destroys what is due."""

    serializer_class = DueView
    queryset = Invoice.objects.none()

    @extend_schema(responses=DueView(many=True))
    def list(self, request: Request) -> Response:
        """The oldest 1,000."""
        access.operator(self.principal)
        found = archive.due(self.now, limit=1000)
        return Response({"data": [DueView(one).data for one in found]})

    @extend_schema(
        request=VaultBody, responses={(200, "application/octet-stream"): OpenApiTypes.BINARY}
    )
    def read(self, request: Request) -> HttpResponse:
        """An erased organization's invoice. Each time, with its reason, is an event."""
        access.operator(self.principal)
        body = self.checked(request, VaultBody)
        invoice, form = invoice_access.invoice(self.principal, body["invoice"]), Form(body["form"])
        content = vault.read(
            actor=self.principal.actor,
            invoice=invoice,
            form=form,
            reason=body["reason"],
            now=self.now,
        )
        return download(content, _TYPES.get(form, "application/json"), f"{invoice.label}.{form}")


def download(content: bytes, kind: str, name: str) -> HttpResponse:
    """Never shown in place: a browser saves it."""
    answer = HttpResponse(content, content_type=kind)
    answer["content-disposition"] = f'attachment; filename="{name}"'
    answer["x-content-type-options"] = "nosniff"
    return answer


class ProfileView(serializers.ModelSerializer[Customer]):
    object = serializers.CharField(default="billing_profile", read_only=True)
    credit_limit = serializers.SerializerMethodField()

    class Meta:
        model = Customer
        fields = ("object", *profiles.PROFILE, "mode", "credit_limit", "updated_at")

    def get_credit_limit(self, row: Customer) -> str | None:
        return None if row.credit_limit is None else shown(row.credit_limit)


class EntityView(serializers.ModelSerializer[Entity]):
    object = serializers.CharField(default="entity", read_only=True)

    class Meta:
        model = Entity
        fields = ("id", "object", *profiles.ENTITY, "placeholder")


class BillingProfiles(HouseViewSet):
    serializer_class = ProfileView
    queryset = Customer.objects.none()

    def retrieve(self, request: Request, pk: str) -> Response:
        organization = access.organization(self.principal, pk, Permission.VIEW_COSTS)
        found = Customer.objects.filter(account_id=organization.account_id).first()
        if found is None:
            raise NotFound("billing profile")
        return Response(ProfileView(found).data)

    @extend_schema(request=ProfileView, responses=ProfileView)
    def update(self, request: Request, pk: str) -> Response:
        """Fields that are not there stay."""
        organization = access.organization(self.principal, pk, Permission.MANAGE_BILLING)
        made = profiles.set_profile(
            organization.account_id, texts(request), actor=self.principal.actor, now=self.now
        )
        return Response(ProfileView(made).data)


class EntitySettings(HouseViewSet):
    """Who issues the invoices; the operator's alone."""

    serializer_class = EntityView
    queryset = Entity.objects.none()

    def retrieve(self, request: Request) -> Response:
        access.operator(self.principal)
        return Response(EntityView(profiles.entity(self.now)).data)

    @extend_schema(request=EntityView, responses=EntityView)
    def update(self, request: Request) -> Response:
        access.operator(self.principal)
        made = profiles.set_entity(texts(request), actor=self.principal.actor, now=self.now)
        return Response(EntityView(made).data)


def texts(request: Request) -> dict[str, object]:
    """An object whose values are texts, but for those that are not; else 422."""
    if not isinstance(request.data, dict):
        raise ValidationError("An object with the fields to set.")
    wrong = {
        name: "A text."
        for name, value in request.data.items()
        if not isinstance(value, str) and name not in ("proof", "payment_terms_days")
    }
    if wrong:
        raise ValidationError(wrong)
    return dict(request.data)
