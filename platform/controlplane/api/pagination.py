"""Lists as OpenAI and Stripe page them: newest first, `limit`, `after`, `before`."""

from collections.abc import Sequence
from typing import Any

from django.db.models import Model, QuerySet
from rest_framework.exceptions import ValidationError
from rest_framework.pagination import BasePagination
from rest_framework.request import Request
from rest_framework.response import Response

DEFAULT_LIMIT = 20
MAX_LIMIT = 100


class CursorPagination(BasePagination):
    """{object: "list", data, has_more, first_id, last_id} over ids, which sort by birth."""

    _page: list[Any]
    _has_more: bool

    def paginate_queryset(
        self, queryset: QuerySet[Any] | Sequence[Any], request: Request, view: Any = None
    ) -> list[Any]:
        assert isinstance(queryset, QuerySet)
        limit = _limit(request)
        after, before = request.query_params.get("after"), request.query_params.get("before")
        if after and before:
            raise ValidationError({"after": "Give `after` or `before`, not both."})
        if before:
            rows = list(queryset.filter(pk__gt=before).order_by("pk")[: limit + 1])
        else:
            older = queryset.filter(pk__lt=after) if after else queryset
            rows = list(older.order_by("-pk")[: limit + 1])
        self._has_more = len(rows) > limit
        self._page = rows[:limit][::-1] if before else rows[:limit]
        return self._page

    def get_paginated_response(self, data: Any) -> Response:
        return Response(envelope(data, self._page, has_more=self._has_more))

    def get_paginated_response_schema(self, schema: dict[str, Any]) -> dict[str, Any]:
        return {
            "type": "object",
            "required": ["object", "data", "has_more", "first_id", "last_id"],
            "properties": {
                "object": {"type": "string", "enum": ["list"]},
                "data": schema,
                "has_more": {"type": "boolean"},
                "first_id": {"type": "string", "nullable": True},
                "last_id": {"type": "string", "nullable": True},
            },
        }

    def get_schema_operation_parameters(self, view: Any) -> list[dict[str, Any]]:
        text = {"type": "string"}
        return [
            _parameter("limit", {"type": "integer", "minimum": 1, "maximum": MAX_LIMIT}),
            _parameter("after", text),
            _parameter("before", text),
        ]


def envelope(data: Any, rows: Sequence[Model], *, has_more: bool) -> dict[str, Any]:
    return {
        "object": "list",
        "data": data,
        "has_more": has_more,
        "first_id": rows[0].pk if rows else None,
        "last_id": rows[-1].pk if rows else None,
    }


def _limit(request: Request) -> int:
    value = request.query_params.get("limit", str(DEFAULT_LIMIT))
    if not value.isdecimal() or len(value) > 9 or not 1 <= int(value) <= MAX_LIMIT:
        raise ValidationError({"limit": f"A whole number from 1 to {MAX_LIMIT}."})
    return int(value)


def _parameter(name: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"name": name, "in": "query", "required": False, "schema": schema}
