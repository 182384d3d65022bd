"""Data keys, without what they are made of, and having them destroyed by two people."""

from typing import Any

from drf_spectacular.utils import extend_schema
from rest_framework import serializers, status
from rest_framework.decorators import action
from rest_framework.request import Request
from rest_framework.response import Response

from compliance.keys.destroying import REASONS
from compliance.models import DataKey, KeyDestruction
from controlplane.api.views import HouseViewSet
from controlplane.tenancy import key_access


class DataKeyView(serializers.ModelSerializer[DataKey]):
    object = serializers.CharField(default="data_key", read_only=True)
    state = serializers.SerializerMethodField()

    class Meta:
        model = DataKey
        fields = (
            *("id", "object", "subject_kind", "subject_id", "purpose", "kek", "state"),
            *("created_at", "rewrapped_at", "destroyed_at", "keep_until"),
        )

    def get_state(self, key: DataKey) -> str:
        return "active" if key.destroyed_at is None else "destroyed"


class KeyDestructionView(serializers.ModelSerializer[KeyDestruction]):
    object = serializers.CharField(default="key_destruction", read_only=True)
    key_ids = serializers.ListField(child=serializers.CharField())

    class Meta:
        model = KeyDestruction
        fields = (
            *("id", "object", "subject_kind", "subject_id", "reason_code", "state"),
            *("requested_by", "requested_at", "decided_by", "decided_at"),
            *("key_ids", "backups_until", "event_id"),
        )


class KeyDestructionBody(serializers.Serializer[Any]):
    subject = serializers.CharField(max_length=31, help_text="an organization's or person's id")
    reason = serializers.ChoiceField(choices=REASONS)


class DataKeys(HouseViewSet):
    queryset = DataKey.objects.none()
    serializer_class = DataKeyView

    @extend_schema(responses=DataKeyView(many=True))
    def list(self, request: Request) -> Response:
        return self.page(key_access.data_keys(self.principal).order_by("-id"), DataKeyView)


class KeyDestructions(HouseViewSet):
    queryset = KeyDestruction.objects.none()
    serializer_class = KeyDestructionView

    @extend_schema(responses=KeyDestructionView(many=True))
    def list(self, request: Request) -> Response:
        rows = key_access.destructions(self.principal).order_by("-id")
        return self.page(rows, KeyDestructionView)

    @extend_schema(request=KeyDestructionBody, responses={201: KeyDestructionView})
    def create(self, request: Request) -> Response:
        body = self.checked(request, KeyDestructionBody)
        asked = key_access.request(
            self.principal, subject_id=body["subject"], reason_code=body["reason"], now=self.now
        )
        return Response(KeyDestructionView(asked).data, status=status.HTTP_201_CREATED)

    @extend_schema(request=None, responses=KeyDestructionView)
    @action(detail=True, methods=["post"])
    def approve(self, request: Request, pk: str) -> Response:
        done = key_access.approve(self.principal, pk, now=self.now)
        return Response(KeyDestructionView(done).data)

    @extend_schema(request=None, responses=KeyDestructionView)
    @action(detail=True, methods=["post"])
    def refuse(self, request: Request, pk: str) -> Response:
        done = key_access.refuse(self.principal, pk, now=self.now)
        return Response(KeyDestructionView(done).data)
