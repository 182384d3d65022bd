"""Organizations, projects, members and API keys."""

from typing import Any

from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework import serializers, status
from rest_framework.decorators import action
from rest_framework.request import Request
from rest_framework.response import Response

from controlplane.api.idempotency import idempotent
from controlplane.api.views import HouseViewSet
from controlplane.tenancy import access, limits, running, services
from controlplane.tenancy.access import Permission
from controlplane.tenancy.errors import NotFound
from controlplane.tenancy.models import (
    ApiKey,
    ApiKeySecret,
    Membership,
    Organization,
    Project,
    Scope,
    User,
)

_BY_ORGANIZATION = OpenApiParameter("organization", str, required=False)
_BY_PROJECT = OpenApiParameter("project", str, required=False)


class Named(serializers.Serializer[Any]):
    """Anything with a name; what makes a good one is said by tenancy.names."""

    name = serializers.CharField(trim_whitespace=False, allow_blank=True)


class RatesBody(serializers.Serializer[Any]):
    """What is absent stays; null takes a limit away."""

    requests_per_minute = serializers.IntegerField(required=False, allow_null=True)
    input_tokens_per_minute = serializers.IntegerField(required=False, allow_null=True)
    output_tokens_per_minute = serializers.IntegerField(required=False, allow_null=True)
    concurrency = serializers.IntegerField(required=False, allow_null=True)


class OrganizationView(serializers.ModelSerializer[Organization]):
    object = serializers.CharField(default="organization", read_only=True)
    region = serializers.CharField(source="region_code")

    class Meta:
        model = Organization
        fields = ("id", "object", "name", "region", *limits.RATES, "created_at")


class ProjectView(serializers.ModelSerializer[Project]):
    object = serializers.CharField(default="project", read_only=True)
    organization = serializers.CharField(source="organization_id")

    class Meta:
        model = Project
        fields = ("id", "object", "organization", "name", *limits.PROJECT_SETTINGS, "created_at")


class ProjectSettingsBody(RatesBody):
    run_policy = serializers.JSONField(
        required=False, allow_null=True, help_text="See the page on the gateway; null: its default."
    )


class ProjectBody(Named):
    organization = serializers.CharField()


class RunStopView(serializers.Serializer[Any]):
    object = serializers.CharField(default="run")
    id = serializers.CharField(help_text="The run's reference.")
    project = serializers.CharField()
    stopped = serializers.BooleanField()


class MemberView(serializers.ModelSerializer[Membership]):
    object = serializers.CharField(default="member", read_only=True)
    organization = serializers.CharField(source="organization_id")
    user = serializers.CharField(source="user_id")
    email = serializers.CharField(source="user.email")

    class Meta:
        model = Membership
        fields = ("id", "object", "organization", "user", "email", "role", "created_at")


class MemberBody(serializers.Serializer[Any]):
    organization = serializers.CharField()
    email = serializers.CharField()
    role = serializers.CharField()


class RoleBody(serializers.Serializer[Any]):
    role = serializers.CharField()


class SecretView(serializers.ModelSerializer[ApiKeySecret]):
    class Meta:
        model = ApiKeySecret
        fields = ("id", "prefix", "created_at", "expires_at", "last_used_at")


class ApiKeyView(serializers.ModelSerializer[ApiKey]):
    object = serializers.CharField(default="api_key", read_only=True)
    project = serializers.CharField(source="project_id")
    secrets = SecretView(many=True, help_text="Newest first.")

    class Meta:
        model = ApiKey
        fields: tuple[str, ...] = (
            "id",
            "object",
            "project",
            "name",
            "prefix",
            "scopes",
            *limits.KEY_SETTINGS,
            "expires_at",
            "revoked_at",
            "created_at",
            "secrets",
        )


class NewApiKeyView(ApiKeyView):
    secret = serializers.CharField(read_only=True, help_text="Shown this once.")

    class Meta(ApiKeyView.Meta):
        fields = (*ApiKeyView.Meta.fields, "secret")


class KeySettingsBody(RatesBody):
    priority = serializers.IntegerField(required=False)
    networks = serializers.ListField(
        child=serializers.CharField(),
        required=False,
        help_text="CIDR; where its requests may come from. Empty: anywhere.",
    )
    allowed_models = serializers.ListField(child=serializers.CharField(), required=False)


class RotateBody(serializers.Serializer[Any]):
    overlap_s = serializers.IntegerField(
        default=86_400, help_text="How long the secrets before this one stay valid."
    )


class ApiKeyBody(Named, KeySettingsBody):
    project = serializers.CharField()
    scopes = serializers.ListField(
        child=serializers.CharField(), default=[Scope.INFERENCE.value], min_length=1
    )
    expires_at = serializers.DateTimeField(default=None, allow_null=True)


class Organizations(HouseViewSet):
    serializer_class = OrganizationView
    queryset = Organization.objects.none()

    @extend_schema(responses=OrganizationView(many=True))
    def list(self, request: Request) -> Response:
        return self.page(access.organizations(self.principal), OrganizationView)

    def retrieve(self, request: Request, pk: str) -> Response:
        found = access.organization(self.principal, pk, Permission.READ)
        return Response(OrganizationView(found).data)

    @extend_schema(request=RatesBody, responses=OrganizationView)
    def partial_update(self, request: Request, pk: str) -> Response:
        found = access.organization(self.principal, pk, Permission.MANAGE_PROJECTS)
        body = self.checked(request, RatesBody)
        changed = limits.update_organization(
            actor=self.principal.actor, organization=found, now=self.now, **body
        )
        return Response(OrganizationView(changed).data)


class Projects(HouseViewSet):
    serializer_class = ProjectView
    queryset = Project.objects.none()

    @extend_schema(parameters=[_BY_ORGANIZATION], responses=ProjectView(many=True))
    def list(self, request: Request) -> Response:
        rows = access.projects(self.principal)
        if wanted := request.query_params.get("organization"):
            rows = rows.filter(organization_id=wanted)
        return self.page(rows, ProjectView)

    def retrieve(self, request: Request, pk: str) -> Response:
        return Response(ProjectView(access.project(self.principal, pk, Permission.READ)).data)

    @extend_schema(request=ProjectSettingsBody, responses=ProjectView)
    def partial_update(self, request: Request, pk: str) -> Response:
        found = access.project(self.principal, pk, Permission.MANAGE_PROJECTS)
        body = self.checked(request, ProjectSettingsBody)
        changed = limits.update_project(
            actor=self.principal.actor, project=found, now=self.now, **body
        )
        return Response(ProjectView(changed).data)

    @extend_schema(request=None, responses=RunStopView)
    @action(detail=True, methods=["post"], url_path="runs/(?P<run>.+)/stop")
    def stop_run(self, request: Request, pk: str, run: str) -> Response:
        """By its name or its reference; all that is below it, too. Gateways refuse it for a day."""
        return self._run(pk, run, stopped=True)

    @extend_schema(request=None, responses=RunStopView)
    @action(detail=True, methods=["post"], url_path="runs/(?P<run>.+)/resume")
    def resume_run(self, request: Request, pk: str, run: str) -> Response:
        return self._run(pk, run, stopped=False)

    def _run(self, pk: str, run: str, *, stopped: bool) -> Response:
        found = access.project(self.principal, pk, Permission.MANAGE_ENDPOINTS)
        verb = running.stop_run if stopped else running.resume_run
        row = verb(actor=self.principal.actor, project=found, run=run, now=self.now)
        shown = {"object": "run", "id": row.run, "project": found.id, "stopped": stopped}
        return Response(shown)

    @extend_schema(request=ProjectBody, responses={201: ProjectView})
    @idempotent
    def create(self, request: Request) -> Response:
        body = self.checked(request, ProjectBody)
        organization = access.organization(
            self.principal, body["organization"], Permission.MANAGE_PROJECTS
        )
        project = services.create_project(
            actor=self.principal.actor, organization=organization, name=body["name"], now=self.now
        )
        return Response(ProjectView(project).data, status=status.HTTP_201_CREATED)


class Members(HouseViewSet):
    serializer_class = MemberView
    queryset = Membership.objects.none()

    @extend_schema(parameters=[_BY_ORGANIZATION], responses=MemberView(many=True))
    def list(self, request: Request) -> Response:
        rows = access.memberships(self.principal).select_related("user")
        if wanted := request.query_params.get("organization"):
            rows = rows.filter(organization_id=wanted)
        return self.page(rows, MemberView)

    @extend_schema(request=MemberBody, responses={201: MemberView})
    @idempotent
    def create(self, request: Request) -> Response:
        body = self.checked(request, MemberBody)
        organization = access.organization(
            self.principal, body["organization"], _to_set(body["role"])
        )
        user = User.objects.filter(email=body["email"].strip().lower()).first()
        if user is None:
            raise NotFound("person with this e-mail address", field="email")
        member = services.add_member(
            actor=self.principal.actor,
            organization=organization,
            user=user,
            role=body["role"],
            now=self.now,
        )
        return Response(MemberView(member).data, status=status.HTTP_201_CREATED)

    @extend_schema(request=RoleBody, responses=MemberView)
    def partial_update(self, request: Request, pk: str) -> Response:
        found = access.membership(self.principal, pk, Permission.MANAGE_MEMBERS)
        body = self.checked(request, RoleBody)
        for role in (found.role, body["role"]):
            access.membership(self.principal, pk, _to_set(role))
        member = services.change_role(
            actor=self.principal.actor, membership=found, role=body["role"], now=self.now
        )
        return Response(MemberView(member).data)

    @extend_schema(responses={204: None})
    def destroy(self, request: Request, pk: str) -> Response:
        found = access.membership(self.principal, pk, Permission.MANAGE_MEMBERS)
        access.membership(self.principal, pk, _to_set(found.role))
        services.remove_member(actor=self.principal.actor, membership=found, now=self.now)
        return Response(status=status.HTTP_204_NO_CONTENT)


class ApiKeys(HouseViewSet):
    serializer_class = ApiKeyView
    queryset = ApiKey.objects.none()

    @extend_schema(parameters=[_BY_PROJECT], responses=ApiKeyView(many=True))
    def list(self, request: Request) -> Response:
        rows = access.api_keys(self.principal).prefetch_related("secrets")
        if wanted := request.query_params.get("project"):
            rows = rows.filter(project_id=wanted)
        return self.page(rows, ApiKeyView)

    def retrieve(self, request: Request, pk: str) -> Response:
        return Response(ApiKeyView(access.api_key(self.principal, pk, Permission.READ)).data)

    @extend_schema(request=ApiKeyBody, responses={201: NewApiKeyView})
    @idempotent
    def create(self, request: Request) -> Response:
        body = self.checked(request, ApiKeyBody)
        project = access.project(self.principal, body.pop("project"), Permission.MANAGE_KEYS)
        access.may_hand_out(self.principal, project, body["scopes"])
        key, secret = services.issue_key(
            actor=self.principal.actor, project=project, now=self.now, **body
        )
        shown = {**ApiKeyView(key).data, "secret": secret}
        return Response(shown, status=status.HTTP_201_CREATED)

    @extend_schema(request=KeySettingsBody, responses=ApiKeyView)
    def partial_update(self, request: Request, pk: str) -> Response:
        key = access.api_key(self.principal, pk, Permission.MANAGE_KEYS)
        body = self.checked(request, KeySettingsBody)
        changed = limits.update_key(actor=self.principal.actor, key=key, now=self.now, **body)
        return Response(ApiKeyView(changed).data)

    @extend_schema(request=RotateBody, responses={201: NewApiKeyView})
    @action(detail=True, methods=["post"])
    @idempotent
    def rotate(self, request: Request, pk: str) -> Response:
        """A new secret under the same id; the old ones end after the overlap."""
        key = access.api_key(self.principal, pk, Permission.MANAGE_KEYS)
        body = self.checked(request, RotateBody)
        rotated, secret = services.rotate_key(
            actor=self.principal.actor, key=key, now=self.now, **body
        )
        shown = {**ApiKeyView(rotated).data, "secret": secret}
        return Response(shown, status=status.HTTP_201_CREATED)

    @extend_schema(responses=ApiKeyView, description="Revokes the key; it stays on record.")
    def destroy(self, request: Request, pk: str) -> Response:
        key = access.api_key(self.principal, pk, Permission.MANAGE_KEYS)
        revoked = services.revoke_key(actor=self.principal.actor, key=key, now=self.now)
        return Response(ApiKeyView(revoked).data)


def _to_set(role: str) -> Permission:
    """Owners are made and unmade by owners alone."""
    return Permission.MANAGE_OWNERS if role == "owner" else Permission.MANAGE_MEMBERS
