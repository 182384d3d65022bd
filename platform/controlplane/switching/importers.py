"""Who takes over what: each resource by the verb that a person would use, in the table's order.

Times and secrets are new ones. A row that is refused is noted and passed over, with whatever
names it.
"""

import re
import secrets
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from django.db import transaction

from billing.errors import BillingError
from billing.invoices import profiles
from billing.models import Subject
from billing.spending import budgets
from compliance import audit
from controlplane.endpoints import aliases, egress, uploads
from controlplane.switching.bundle import Bundle
from controlplane.tenancy import limits, services
from controlplane.tenancy.errors import TenancyError
from controlplane.tenancy.models import Organization, Project, User

_NONE: Mapping[str, Any] = {}
_ID = re.compile(r"\b[a-z]{2,5}_[0-9a-z]{26}\b")


@dataclass(frozen=True)
class Note:
    """What could not be taken over, or needs a hand. `code` is for programs."""

    resource: str
    code: str
    text: str
    id: str = ""  # as the bundle calls it
    name: str = ""

    def said(self) -> dict[str, str]:
        return {
            "resource": self.resource,
            "code": self.code,
            "text": self.text,
            "id": self.id,
            "name": self.name,
        }


@dataclass
class Taking:
    """An import under way. `ids`: from the bundle's to ours."""

    bundle: Bundle
    actor: audit.Actor
    now: datetime
    region: str
    name: str
    pools: Mapping[str, str]
    ids: dict[str, str] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=Counter)
    notes: list[Note] = field(default_factory=list)
    _organization: Organization | None = None
    _projects: dict[str, Project] = field(default_factory=dict)

    @property
    def organization(self) -> Organization:
        assert self._organization is not None
        return self._organization

    @organization.setter
    def organization(self, made: Organization) -> None:
        self._organization = made

    def note(self, resource: str, code: str, text: str, row: Mapping[str, Any] = _NONE) -> None:
        name = str(row.get("name") or row.get("user_email") or "")
        self.notes.append(Note(resource, code, text[:500], str(row.get("id", "")), name))

    def made(self, resource: str, old: str, new: str) -> None:
        self.ids[old] = new
        self.counts[resource] += 1

    def mapped(self, value: Any) -> Any:
        """`value` with every id that the bundle uses for what we made, replaced by ours."""
        if isinstance(value, str):
            return _ID.sub(lambda found: self.ids.get(found[0], found[0]), value)
        if isinstance(value, list):
            return [self.mapped(one) for one in value]
        if isinstance(value, dict):
            return {self.mapped(key): self.mapped(one) for key, one in value.items()}
        return value

    def add_project(self, old: str, project: Project) -> None:
        self._projects[old] = project

    def owned(self, resource: str) -> Iterator[tuple[dict[str, Any], Project]]:
        """The rows of projects that came in, each with its own."""
        for row in self.bundle.rows(resource):
            if project := self._projects.get(row["project_id"]):
                yield row, project

    @contextmanager
    def passing_over(self, resource: str, row: Mapping[str, Any]) -> Iterator[None]:
        """What is refused within is undone, and noted."""
        try:
            with transaction.atomic():
                yield
        except (TenancyError, BillingError) as error:
            self.note(resource, error.code, str(error), row)


def organization(taking: Taking) -> None:
    (row,) = taking.bundle.rows("organization")
    made = services.create_organization(
        actor=taking.actor,
        name=taking.name or row["name"],
        region_code=taking.region,
        owner=None,
        now=taking.now,
    )
    made = limits.update_organization(
        actor=taking.actor, organization=made, now=taking.now, **_rates(row)
    )
    taking.organization = made
    taking.made("organization", row["id"], made.id)
    with taking.passing_over("organization", row):
        egress.allow(actor=taking.actor, organization=made, allowed=row["egress"], now=taking.now)


def billing_profile(taking: Taking) -> None:
    for row in taking.bundle.rows("billing_profile"):
        with taking.passing_over("billing_profile", row):
            made = profiles.set_profile(
                taking.organization.account_id,
                {name: row[name] for name in profiles.PROFILE},
                actor=taking.actor,
                now=taking.now,
            )
            taking.made("billing_profile", row["id"], made.id)
        if row["mode"] != "postpaid" or row["credit_limit"] is not None:
            words = "terms of payment are the new operator's to set"
            taking.note("billing_profile", "terms_not_taken", words, row)


def members(taking: Taking) -> None:
    """People sign in once the operator has given them a password; who is here already stays."""
    for row in taking.bundle.rows("members"):
        with taking.passing_over("members", row):
            user = User.objects.filter(email=row["user_email"]).first()
            if user is None:
                user = services.create_user(
                    actor=taking.actor,
                    email=row["user_email"],
                    password=secrets.token_urlsafe(32),
                    now=taking.now,
                )
                words = "has a login that nobody knows the password of: set one"
                taking.note("members", "password_to_be_set", words, row)
            else:
                taking.note("members", "known_here", "had a login here already", row)
            made = services.add_member(
                actor=taking.actor,
                organization=taking.organization,
                user=user,
                role=row["role"],
                now=taking.now,
            )
            taking.ids[row["user_id"]] = user.id
            taking.made("members", row["id"], made.id)


def projects(taking: Taking) -> None:
    for row in taking.bundle.rows("projects"):
        with taking.passing_over("projects", row):
            made = services.create_project(
                actor=taking.actor,
                organization=taking.organization,
                name=row["name"],
                now=taking.now,
            )
            made = limits.update_project(
                actor=taking.actor,
                project=made,
                now=taking.now,
                run_policy=row["run_policy"],
                **_rates(row),
            )
            taking.add_project(row["id"], made)
            taking.made("projects", row["id"], made.id)


def api_keys(taking: Taking) -> None:
    """Keys as they were, with secrets that nobody has seen: rotating one gives it another."""
    for row, project in taking.owned("api_keys"):
        expires = row["expires_at"] and datetime.fromisoformat(row["expires_at"])
        if row["revoked_at"] or (expires and expires <= taking.now):
            taking.note("api_keys", "ended", "had ended before", row)
            continue
        with taking.passing_over("api_keys", row):
            made, _ = services.issue_key(
                actor=taking.actor,
                project=project,
                name=row["name"],
                scopes=row["scopes"],
                now=taking.now,
                expires_at=expires,
                **{name: row[name] for name in limits.KEY_SETTINGS if name in row},
            )
            taking.made("api_keys", row["id"], made.id)
            words = "has a secret that nobody has seen: rotate it to get one"
            taking.note("api_keys", "secret_to_be_issued", words, row)


def model_uploads(taking: Taking) -> None:
    """Declared with the same files; the bytes come by `stoa models upload`."""
    listed: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in taking.bundle.rows("upload_files"):
        file = {"path": row["path"], "size_bytes": int(row["size_bytes"]), "sha256": row["sha256"]}
        listed[row["upload_id"]].append(file | {"number": row["number"]})
    for row, project in taking.owned("uploads"):
        with taking.passing_over("uploads", row):
            files = sorted(listed[row["id"]], key=lambda one: int(one["number"]))
            made = uploads.begin_upload(
                actor=taking.actor,
                project=project,
                name=row["name"],
                files=files,
                now=taking.now,
            )
            taking.made("uploads", row["id"], made.id)
            words = f"its {len(files)} files have to be sent: stoa models upload"
            taking.note("uploads", "weights_to_be_sent", words, row)


def model_aliases(taking: Taking) -> None:
    for row, project in taking.owned("aliases"):
        with taking.passing_over("aliases", row):
            made = aliases.create_alias(
                actor=taking.actor,
                project=project,
                name=row["name"],
                targets=row["targets"],
                fallback_on=row["fallback_on"],
                now=taking.now,
            )
            taking.made("aliases", row["id"], made.id)


def spending(taking: Taking) -> None:
    for row in taking.bundle.rows("budgets"):
        subject = taking.ids.get(row["subject_id"])
        if subject is None:
            taking.note("budgets", "subject_not_here", "what it bounds did not come in", row)
            continue
        if row["subject"] == Subject.AGENT and row["name"]:
            words = "of an agent only a pseudonym is kept, which is another here: set it anew"
            taking.note("budgets", "agent_unknown", words, row)
            continue
        owner = budgets.Owner(taking.organization.id, taking.region, row["subject"], subject)
        with taking.passing_over("budgets", row):
            made = budgets.create(
                actor=taking.actor,
                owner=owner,
                unit=row["unit"],
                amount=int(row["amount"]),
                allowance=int(row["allowance"]),
                window=row["window"],
                time_zone=row["time_zone"],
                hard=row["hard"],
                now=taking.now,
            )
            taking.made("budgets", row["id"], made.id)


def _rates(row: Mapping[str, Any]) -> dict[str, Any]:
    return {name: row[name] for name in limits.RATES}
