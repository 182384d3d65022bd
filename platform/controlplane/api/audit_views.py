"""The log that can be checked: its signed head, and proofs that lead to it."""

import base64
from typing import Any

from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from compliance import audit, ids
from compliance.log import proofs, signing
from compliance.models import AuditEvent, Log, LogCheckpoint
from controlplane.api.views import HouseViewSet
from controlplane.tenancy import access
from controlplane.tenancy.access import Permission
from controlplane.tenancy.errors import Conflict, Invalid, NotFound

ORGANIZATION = OpenApiParameter("organization", str, description="its log")
LOG = OpenApiParameter("log", str, description="`platform`: the operator's own log")


class CheckpointView(serializers.Serializer[Any]):
    object = serializers.CharField(default="checkpoint")
    origin = serializers.CharField()
    size = serializers.IntegerField()
    root_hash = serializers.CharField(help_text="base64")
    note = serializers.CharField(help_text="C2SP signed note")
    signed_at = serializers.DateTimeField()
    vkey = serializers.CharField(help_text="pin the published one, not this")
    meta = serializers.JSONField(help_text="proof in the meta log; null until it is there")


class InclusionView(serializers.Serializer[Any]):
    object = serializers.CharField(default="inclusion_proof")
    event = serializers.CharField()
    origin = serializers.CharField()
    index = serializers.IntegerField()
    size = serializers.IntegerField()
    leaf_hash = serializers.CharField(help_text="base64")
    proof = serializers.ListField(child=serializers.CharField(), help_text="base64")
    body = serializers.CharField(help_text="the exact text whose leaf this is")
    note = serializers.CharField()


class ConsistencyView(serializers.Serializer[Any]):
    object = serializers.CharField(default="consistency_proof")
    origin = serializers.CharField()
    old = serializers.IntegerField()
    new = serializers.IntegerField()
    proof = serializers.ListField(child=serializers.CharField(), help_text="base64")
    note = serializers.CharField()


def log_of(principal: access.Principal, wanted: Any) -> str:
    """The log that is asked about and may be read: of `organization`, or the operator's."""
    if wanted.get("log", "") == audit.PLATFORM:
        access.operator(principal)
        return audit.PLATFORM
    organization = access.organization(principal, wanted.get("organization", ""), Permission.EXPORT)
    return organization.id


class Audit(HouseViewSet):
    queryset = AuditEvent.objects.none()

    @extend_schema(parameters=[ORGANIZATION, LOG], responses=CheckpointView)
    def checkpoint(self, request: Request) -> Response:
        owner = log_of(self.principal, request.query_params)
        head = proofs.newest(owner)
        if head is None:
            raise NotFound("checkpoint: nothing was signed yet")
        return Response(_checkpoint(head))

    @extend_schema(
        parameters=[OpenApiParameter("event", str, required=True)], responses=InclusionView
    )
    def inclusion(self, request: Request) -> Response:
        event = self._event(request.query_params.get("event", ""))
        try:
            found = proofs.inclusion(event.id)
        except proofs.NotYet as error:
            raise Conflict(str(error), code="not_yet") from error
        except proofs.Unknown as error:
            raise NotFound("event") from error
        said = {
            "object": "inclusion_proof",
            "event": event.id,
            "origin": found.origin,
            "index": found.index,
            "size": found.size,
            "leaf_hash": _text(found.leaf_hash),
            "proof": [_text(one) for one in found.proof],
            "body": bytes(event.body).decode(),
            "note": found.note,
        }
        return Response(said)

    @extend_schema(
        parameters=[ORGANIZATION, LOG, OpenApiParameter("from", int, required=True)],
        responses=ConsistencyView,
    )
    def consistency(self, request: Request) -> Response:
        owner = log_of(self.principal, request.query_params)
        size = request.query_params.get("from", "")
        if not (size.isascii() and size.isdecimal() and len(size) < 19):
            raise Invalid("expected the size of an earlier checkpoint", field="from")
        try:
            found = proofs.consistency(owner, int(size))
        except proofs.NotYet as error:
            raise Conflict(str(error), code="not_yet") from error
        except proofs.Unknown as error:
            raise Invalid(str(error), field="from") from error
        said = {
            "object": "consistency_proof",
            "origin": found.origin,
            "old": found.old,
            "new": found.new,
            "proof": [_text(one) for one in found.proof],
            "note": found.note,
        }
        return Response(said)

    def _event(self, pk: str) -> AuditEvent:
        """One that is in a log which may be read; for others as if there were none."""
        event = AuditEvent.objects.filter(id=pk).first() if ids.valid(pk, "evt") else None
        if event is None:
            raise NotFound("event")
        place = "log" if event.log_id == audit.PLATFORM else "organization"
        try:
            log_of(self.principal, {place: event.log_id})
        except NotFound:
            raise NotFound("event") from None
        return event


def _checkpoint(head: LogCheckpoint) -> dict[str, Any]:
    meta = proofs.in_meta(head)
    return {
        "object": "checkpoint",
        "origin": Log.objects.get(id=head.log_id).origin,
        "size": head.size,
        "root_hash": _text(bytes(head.root)),
        "note": head.note,
        "signed_at": head.signed_at,
        "vkey": _vkey(),
        "meta": meta
        and {
            "index": meta.index,
            "size": meta.size,
            "proof": [_text(one) for one in meta.proof],
            "salt": _text(meta.salt),
            "body": meta.body.decode(),
            "note": meta.note,
        },
    }


def _vkey() -> str:
    try:
        return signing.vkey()
    except signing.SignerAway:
        return ""


def _text(hash_: bytes) -> str:
    return base64.b64encode(hash_).decode()
