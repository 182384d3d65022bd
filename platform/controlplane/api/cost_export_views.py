"""Costs as files, hour by hour: CSV, JSONL, or FinOps' common format."""

import csv
import json
import re
import tempfile
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from datetime import datetime
from io import TextIOWrapper
from typing import IO

from django.http import FileResponse
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework import serializers
from rest_framework.exceptions import ValidationError
from rest_framework.request import Request

from billing import months
from billing.models import Account
from billing.reports import cost_export, focus
from controlplane.api.cost_views import moment
from controlplane.api.views import HouseViewSet
from controlplane.endpoints.models import Endpoint
from controlplane.fleet.models import Region
from controlplane.tenancy import access
from controlplane.tenancy.access import Permission
from controlplane.tenancy.models import Organization, Project

FORMATS = ("csv", "jsonl", "focus")
_TYPES = {"csv": "text/csv", "jsonl": "application/jsonl", "focus": "text/csv"}
# What a spreadsheet would run: it gets a ' before it, as in every export of the house.
_NUMBER = re.compile(r"-[0-9.]+")
_FORMULA = ("=", "+", "@", "\t", "\r")


class CostExports(HouseViewSet):
    serializer_class = serializers.Serializer

    @extend_schema(
        parameters=[
            OpenApiParameter("organization", str),
            OpenApiParameter("project", str, description="Only of this project; not as focus."),
            OpenApiParameter("as", str, enum=FORMATS),
            OpenApiParameter("month", str, description="2026-10, UTC; required as focus."),
            OpenApiParameter("from", datetime),
            OpenApiParameter("to", datetime),
        ],
        responses={(200, "text/csv"): OpenApiTypes.BINARY},
    )
    def list(self, request: Request) -> FileResponse:
        query = request.query_params
        form = query.get("as", "csv")
        if form not in FORMATS:
            raise ValidationError({"as": f"One of {', '.join(FORMATS)}."})
        organization, project_id = self._place(request)
        start, end = self._period(request)
        account = Account.objects.get(pk=organization.account_id)
        if form == "focus":
            if project_id is not None or "month" not in query:
                raise ValidationError({"as": "FOCUS is of a whole organization and a `month`."})
            rows = cost_export.focus_rows(account, start, end, names(organization))
            columns: Sequence[str] = focus.COLUMNS
        else:
            rows = cost_export.rows(account, start, end, project_id)
            columns = cost_export.COLUMNS
        name = f"costs-{organization.id}-{start:%Y-%m-%d}.{'jsonl' if form == 'jsonl' else 'csv'}"
        return FileResponse(
            written(form, columns, rows),
            as_attachment=True,
            filename=name,
            content_type=_TYPES[form],
        )

    def _place(self, request: Request) -> tuple[Organization, str | None]:
        query = request.query_params
        if project_id := query.get("project") or self.principal.project_id:
            project = access.project(self.principal, project_id, Permission.VIEW_COSTS)
            return project.organization, project.id
        wanted = query.get("organization", "")
        return access.organization(self.principal, wanted, Permission.VIEW_COSTS), None

    def _period(self, request: Request) -> tuple[datetime, datetime]:
        if text := request.query_params.get("month"):
            return month(text)
        return (
            moment(request, "from", months.start_of(self.now)),
            moment(request, "to", self.now),
        )


def month(text: str) -> tuple[datetime, datetime]:
    """2026-10: its first moment and the first after it, UTC. Raises ValidationError."""
    try:
        start = datetime.strptime(f"{text}+0000", "%Y-%m%z")
        following = months.after(start)
    except (ValueError, OverflowError) as error:
        raise ValidationError({"month": "A month such as 2026-10."}) from error
    return start, following


def names(organization: Organization) -> focus.Names:
    """What projects, endpoints and regions are called; those that are gone, too."""
    projects = Project.objects.filter(organization=organization)
    endpoints = Endpoint.objects.filter(project__organization=organization)
    return focus.Names(
        dict(projects.values_list("id", "name")),
        dict(endpoints.values_list("id", "name")),
        dict(Region.objects.values_list("code", "name")),
    )


def written(form: str, columns: Sequence[str], rows: Iterable[Sequence[str | None]]) -> IO[bytes]:
    """The rows in a file that has no name, to be read from its start."""
    with ExitStack() as stack:
        file = stack.enter_context(tempfile.TemporaryFile())
        text = TextIOWrapper(file, "utf-8", newline="", write_through=True)
        if form == "jsonl":
            for row in rows:
                named = dict(zip(columns, row, strict=True))
                text.write(json.dumps(named, ensure_ascii=False) + "\n")
        else:
            writer = csv.writer(text)
            writer.writerow(columns)
            writer.writerows([_plain(value) for value in row] for row in rows)
        text.detach()
        file.seek(0)
        stack.pop_all()
    return file


def _plain(value: str | None) -> str:
    """Null is nothing between two commas."""
    if value is None:
        return ""
    runs = value.startswith(_FORMULA) or (value.startswith("-") and not _NUMBER.fullmatch(value))
    return f"'{value}" if runs else value
