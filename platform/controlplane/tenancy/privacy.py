"""The room's tables, classified: organizations, people, keys and secrets."""

from compliance.privacy import registry
from compliance.privacy.registry import CONTROLLER, PROCESSOR, levels
from controlplane.tenancy.models import (
    ApiKey,
    ApiKeySecret,
    Membership,
    Notice,
    Organization,
    Project,
    ProjectSecret,
    SecretUse,
    User,
)

_LIMITS = "requests_per_minute input_tokens_per_minute output_tokens_per_minute concurrency "


def register() -> None:
    _people()
    _keys()
    registry.table(
        Organization,
        category="accounts",
        role=CONTROLLER,
        purpose="knowing who the tenant is and what it may use",
        basis="contract",
        retention="account",
        columns=levels(
            none=_LIMITS + "region_code egress created_at",
            pseudonymous="id account_id",
            personal="name",
        ),
    )
    registry.table(
        Project,
        category="accounts",
        role=PROCESSOR,
        purpose="keeping a tenant's things apart",
        basis="instruction",
        retention="account",
        columns=levels(
            none=_LIMITS + "run_policy created_at",
            pseudonymous="id organization_id",
            personal="name",
        ),
    )
    registry.table(
        Notice,
        category="accounts",
        role=CONTROLLER,
        purpose="telling a tenant what it should know",
        basis="contract",
        retention="notice",
        columns=levels(
            none="id about_type key created_at closed_at",
            pseudonymous="organization_id about_id closed_by",
            personal="subject text",
        ),
    )


def _people() -> None:
    registry.table(
        User,
        category="people",
        role=CONTROLLER,
        purpose="letting people in, and knowing who did what",
        basis="contract",
        retention="account",
        columns=levels(
            none="is_active is_operator created_at",
            pseudonymous="id last_login",
            personal="email",
            secrets="password",
        ),
    )
    registry.table(
        Membership,
        category="people",
        role=PROCESSOR,
        purpose="knowing what a tenant lets its people do",
        basis="instruction",
        retention="account",
        columns=levels(none="created_at", pseudonymous="id organization_id user_id role"),
    )


def _keys() -> None:
    registry.table(
        ApiKey,
        category="access",
        role=PROCESSOR,
        purpose="letting a tenant's programs in",
        basis="instruction",
        retention="account",
        columns=levels(
            none=_LIMITS + "scopes allowed_models priority expires_at revoked_at created_at",
            pseudonymous="id project_id prefix created_by",
            personal="name networks",
        ),
    )
    registry.table(
        ApiKeySecret,
        category="access",
        role=PROCESSOR,
        purpose="letting a tenant's programs in",
        basis="instruction",
        retention="account",
        columns=levels(
            none="created_at expires_at",
            pseudonymous="id key_id prefix last_used_at",
            secrets="hash",
        ),
    )
    registry.table(
        SecretUse,
        category="access",
        role=PROCESSOR,
        purpose="knowing when a key was last used",
        basis="instruction",
        retention="live_state",
        columns=levels(none="id gateway_id", pseudonymous="secret_id used_at"),
    )
    registry.table(
        ProjectSecret,
        category="access",
        role=PROCESSOR,
        purpose="fetching models from a tenant's own sources",
        basis="instruction",
        retention="account",
        location="database-sealed",
        columns=levels(
            none="kind key_id created_at changed_at used_at",
            pseudonymous="id project_id name created_by",
            secrets="sealed",
        ),
    )
