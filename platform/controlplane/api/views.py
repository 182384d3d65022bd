"""What all views share: who asks, when it is, and how a list leaves."""

from datetime import datetime
from typing import Any

from django.db.models import QuerySet
from django.utils import timezone
from rest_framework.exceptions import ValidationError
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.serializers import BaseSerializer
from rest_framework.viewsets import GenericViewSet

from controlplane.api import authentication
from controlplane.tenancy import access

ID = r"[a-z]{2,4}_[0-9a-z]{26}"


class HouseViewSet(GenericViewSet[Any]):
    """Thin on purpose: look up through `access`, call one service verb, answer."""

    lookup_value_regex = ID

    def initial(self, request: Request, *args: Any, **kwargs: Any) -> None:
        super().initial(request, *args, **kwargs)
        for name, values in request.query_params.lists():
            if any("\0" in value for value in values):  # PostgreSQL has no such text
                raise ValidationError({name: "Text has no NUL in it."})

    @property
    def principal(self) -> access.Principal:
        return authentication.principal(self.request)

    @property
    def now(self) -> datetime:
        return timezone.now()

    def page(self, rows: QuerySet[Any], serializer: type[BaseSerializer[Any]]) -> Response:
        """One page of `rows`, newest first."""
        found = self.paginate_queryset(rows)
        return self.get_paginated_response(serializer(found, many=True).data)

    def checked(self, request: Request, serializer: type[BaseSerializer[Any]]) -> dict[str, Any]:
        """The body, validated; 422 with every bad field otherwise."""
        body = serializer(data=request.data)
        body.is_valid(raise_exception=True)
        data: dict[str, Any] = body.validated_data
        return data
