"""The books, for the operator: closed months, opening one again, the journal, DATEV's numbers."""

import tempfile
from datetime import date
from typing import Any

from django.http import FileResponse, HttpResponse
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import extend_schema
from rest_framework import serializers
from rest_framework.decorators import action
from rest_framework.request import Request
from rest_framework.response import Response

from billing import months
from billing.books import closing, datev, journal
from billing.models import BooksClosing
from controlplane.api.invoice_views import download
from controlplane.api.views import HouseViewSet
from controlplane.tenancy import access
from controlplane.tenancy.errors import NotFound


class ClosingView(serializers.ModelSerializer[BooksClosing]):
    """`asked_at`, `asked_by` and `reason`: somebody wants it open again; another one agrees."""

    object = serializers.CharField(default="closed_books", read_only=True)
    month = serializers.DateField(format="%Y-%m", read_only=True)

    class Meta:
        model = BooksClosing
        fields = (
            *("id", "object", "month", "closed_at", "closed_by", "asked_at", "asked_by", "reason"),
            *("reopened_at", "reopened_by"),
        )


class ReopenBody(serializers.Serializer[Any]):
    reason = serializers.CharField(max_length=200)


class DatevBody(serializers.Serializer[Any]):
    """Account numbers by the beginning of our account's name, such as {"vat:DE:19": "1776"}."""

    consultant = serializers.IntegerField()
    client = serializers.IntegerField()
    year_begins = serializers.IntegerField()
    digits = serializers.IntegerField()
    chart = serializers.CharField(max_length=2)
    accounts = serializers.DictField(child=serializers.CharField(max_length=9))


class Books(HouseViewSet):
    """By month, as 2026-10."""

    serializer_class = ClosingView
    queryset = BooksClosing.objects.none()
    lookup_value_regex = "[0-9]{4}-[0-9]{2}"

    def initial(self, request: Request, *args: Any, **kwargs: Any) -> None:
        super().initial(request, *args, **kwargs)
        access.operator(self.principal)

    @extend_schema(responses=ClosingView(many=True))
    def list(self, request: Request) -> Response:
        return self.page(BooksClosing.objects.all(), ClosingView)

    @extend_schema(request=ReopenBody, responses=ClosingView)
    @action(detail=True, methods=["post"], url_path="ask-reopen")
    def ask_reopen(self, request: Request, pk: str) -> Response:
        """The first of two people says why the newest closed month is opened again."""
        reason = self.checked(request, ReopenBody)["reason"]
        made = closing.ask_reopen(month(pk), reason, actor=self.principal.actor, now=self.now)
        return Response(ClosingView(made).data)

    @extend_schema(request=None, responses=ClosingView)
    @action(detail=True, methods=["post"])
    def reopen(self, request: Request, pk: str) -> Response:
        """The second one agrees, within a day."""
        made = closing.reopen(month(pk), actor=self.principal.actor, now=self.now)
        return Response(ClosingView(made).data)

    @extend_schema(responses={(200, "application/jsonl"): OpenApiTypes.BINARY})
    @action(detail=True)
    def journal(self, request: Request, pk: str) -> FileResponse:
        """Every transaction of the month, canonical JSON, one a line."""
        start = closing.bounds(month(pk))[0]
        file = tempfile.TemporaryFile()  # noqa: SIM115 - the answer closes it
        journal.write(file, start, months.after(start))
        file.seek(0)
        return FileResponse(file, as_attachment=True, filename=f"journal-{pk}.jsonl")

    @extend_schema(responses={(200, "text/csv"): OpenApiTypes.BINARY})
    @action(detail=True)
    def datev(self, request: Request, pk: str) -> HttpResponse:
        """The same for DATEV: after its published format, not tried with its software."""
        content = datev.write(month(pk), self.now)
        return download(content, "text/csv; charset=windows-1252", f"EXTF_Buchungsstapel_{pk}.csv")


class DatevNumbers(HouseViewSet):
    """The numbers of the tax adviser; what is not set is as it is proposed."""

    serializer_class = DatevBody
    queryset = BooksClosing.objects.none()

    @extend_schema(responses=DatevBody)
    def retrieve(self, request: Request) -> Response:
        access.operator(self.principal)
        return Response(_shown(datev.setting()))

    @extend_schema(request=DatevBody, responses=DatevBody)
    def update(self, request: Request) -> Response:
        access.operator(self.principal)
        wanted = datev.Setting(**self.checked(request, DatevBody))
        return Response(_shown(datev.configure(wanted, actor=self.principal.actor, now=self.now)))


def month(text: str) -> date:
    """Raises NotFound for what is no month."""
    try:
        return date.fromisoformat(f"{text}-01")
    except ValueError:
        raise NotFound("month") from None


def _shown(kept: datev.Setting) -> dict[str, Any]:
    return {
        "consultant": kept.consultant,
        "client": kept.client,
        "year_begins": kept.year_begins,
        "digits": kept.digits,
        "chart": kept.chart,
        "accounts": {**datev.PROPOSED, **kept.accounts},
    }
