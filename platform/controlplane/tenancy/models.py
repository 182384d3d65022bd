"""Who may do what: organizations, projects, people and keys."""

from datetime import datetime
from typing import Any, ClassVar

from django.contrib.auth.base_user import AbstractBaseUser, BaseUserManager
from django.contrib.postgres.fields import ArrayField
from django.db import models

from billing.models import Account
from compliance.fields import IdField


class RateLimited(models.Model):
    """How much a gateway lets through in a minute, and at once; null: as much as comes."""

    requests_per_minute = models.PositiveIntegerField(null=True)
    input_tokens_per_minute = models.PositiveIntegerField(null=True)
    output_tokens_per_minute = models.PositiveIntegerField(null=True)
    concurrency = models.PositiveIntegerField(null=True)

    class Meta:
        abstract = True


class Organization(RateLimited):
    """A tenant. It belongs to one region and nothing of it leaves that region."""

    id = IdField("org")
    name = models.CharField(max_length=100)
    region_code = models.CharField(max_length=32)
    account = models.OneToOneField(Account, on_delete=models.PROTECT)
    # What its containers may reach outside: fleet.destinations.
    egress = ArrayField(models.CharField(max_length=300), default=list)
    created_at = models.DateTimeField()

    def __str__(self) -> str:
        return self.name


class Project(RateLimited):
    id = IdField("prj")
    organization = models.ForeignKey(
        Organization, on_delete=models.PROTECT, related_name="projects"
    )
    name = models.CharField(max_length=100)
    run_policy = models.JSONField(null=True)  # tenancy.run_policies; null: the gateway's default
    created_at = models.DateTimeField()

    class Meta:
        constraints = (
            models.UniqueConstraint(fields=("organization", "name"), name="project_name"),
        )

    def __str__(self) -> str:
        return self.name


class UserManager(BaseUserManager["User"]):
    def create_user(self, email: str, password: str, **fields: Any) -> "User":
        user = self.model(email=self.normalize_email(email), **fields)
        user.set_password(password)
        user.save(using=self._db)
        return user

    def get_by_natural_key(self, username: str | None) -> "User":
        """For signing in: addresses are kept in lower case and typed in any."""
        return self.get(email=(username or "").strip().lower())


class User(AbstractBaseUser):
    """A person. `is_operator` marks the people who own the GPU nodes."""

    id = IdField("usr")
    email = models.EmailField(unique=True)
    is_active = models.BooleanField(default=True)
    is_operator = models.BooleanField(default=False)
    created_at = models.DateTimeField()

    USERNAME_FIELD = "email"
    REQUIRED_FIELDS: ClassVar[list[str]] = []
    objects: ClassVar[UserManager] = UserManager()

    def __str__(self) -> str:
        return self.email


class Role(models.TextChoices):
    OWNER = "owner"
    ADMIN = "admin"
    DEVELOPER = "developer"
    BILLING = "billing"
    AUDITOR = "auditor"


class Membership(models.Model):
    id = IdField("mem")
    organization = models.ForeignKey(
        Organization, on_delete=models.CASCADE, related_name="memberships"
    )
    user = models.ForeignKey(User, on_delete=models.CASCADE, related_name="memberships")
    role = models.CharField(max_length=16, choices=Role)
    created_at = models.DateTimeField()

    class Meta:
        constraints = (
            models.UniqueConstraint(fields=("organization", "user"), name="membership_once"),
        )

    def __str__(self) -> str:
        return f"{self.user_id} {self.role}"


class Scope(models.TextChoices):
    """What a key may do: call models, change things, look at things, have the log and exports."""

    INFERENCE = "inference"
    MANAGE = "manage"
    READ = "read"
    EVIDENCE = "evidence"


class ApiKey(RateLimited):
    """What programs call with. Its secrets change under it; `prefix` is the newest's."""

    id = IdField("key")
    project = models.ForeignKey(Project, on_delete=models.CASCADE, related_name="api_keys")
    name = models.CharField(max_length=100)
    prefix = models.CharField(max_length=24, unique=True)
    scopes = ArrayField(models.CharField(max_length=16, choices=Scope))
    allowed_models = ArrayField(
        models.CharField(max_length=100), default=list
    )  # empty: every endpoint
    networks = ArrayField(
        models.CharField(max_length=43), default=list
    )  # CIDR, where its requests may come from; empty: anywhere
    priority = models.SmallIntegerField(default=0)  # of its requests in a queue: higher goes first
    expires_at = models.DateTimeField(null=True)
    revoked_at = models.DateTimeField(null=True)
    created_at = models.DateTimeField()
    created_by = models.CharField(max_length=64)

    class Meta:
        ordering = ("-id",)

    def __str__(self) -> str:
        return f"{self.name} ({self.prefix}…)"

    def usable(self, now: datetime) -> bool:
        return self.revoked_at is None and (self.expires_at is None or now < self.expires_at)


class ApiKeySecret(models.Model):
    """One secret of a key, kept as a keyed hash; `prefix` is the part that people may see."""

    id = IdField("sec")
    key = models.ForeignKey(ApiKey, on_delete=models.CASCADE, related_name="secrets")
    prefix = models.CharField(max_length=24, unique=True)
    hash = models.BinaryField(max_length=32, unique=True)
    created_at = models.DateTimeField()
    expires_at = models.DateTimeField(null=True)  # set when another takes its place
    last_used_at = models.DateTimeField(null=True)

    class Meta:
        ordering = ("-id",)

    def __str__(self) -> str:
        return f"{self.prefix}…"


class SecretUse(models.Model):
    """The door by which gateways tell of uses: a trigger carries each row on and keeps none."""

    secret_id = models.CharField(max_length=32)
    gateway_id = models.CharField(max_length=64)
    used_at = models.DateTimeField()

    def __str__(self) -> str:
        return f"{self.secret_id} {self.used_at}"


class ProjectSecret(models.Model):
    """What opens a project's sources. `sealed` is only ever opened for a node that fetches."""

    id = IdField("psec")
    project = models.ForeignKey(Project, on_delete=models.CASCADE, related_name="secrets")
    kind = models.CharField(max_length=16)  # project_secrets.Kind
    name = models.CharField(max_length=63)
    sealed = models.BinaryField()
    key_id = models.CharField(max_length=64)  # which key it is sealed under
    created_at = models.DateTimeField()
    created_by = models.CharField(max_length=64)
    changed_at = models.DateTimeField()  # when it last got another value
    used_at = models.DateTimeField(null=True)

    class Meta:
        ordering = ("-id",)
        constraints = (
            models.UniqueConstraint(fields=("project", "kind", "name"), name="secret_name"),
        )

    def __str__(self) -> str:
        return f"{self.kind} {self.name}"


class Notice(models.Model):
    """What the operator tells an organization, until one of its people closes it."""

    id = IdField("ntc")
    organization = models.ForeignKey(Organization, on_delete=models.CASCADE, related_name="notices")
    subject = models.CharField(max_length=120)
    text = models.TextField()
    about_type = models.CharField(max_length=32)  # as audit.Target has them
    about_id = models.CharField(max_length=64)
    key = models.CharField(max_length=64)  # what of it: told once
    created_at = models.DateTimeField()
    closed_at = models.DateTimeField(null=True)
    closed_by = models.CharField(max_length=64, blank=True)

    class Meta:
        ordering = ("-id",)
        constraints = (
            models.UniqueConstraint(
                fields=("organization", "about_type", "about_id", "key"), name="notice_once"
            ),
        )

    def __str__(self) -> str:
        return self.subject
