"""`stoa prepare`: tables, roles, and a first organization. Idempotent; run as the owner.

Reads what a former run answered (JSON, or nothing) on standard input and keeps it where it is
still good; answers with JSON on standard output. `make up` calls it; an operator may too.
"""

import json
import secrets
import socket
import sys
from argparse import ArgumentParser
from datetime import datetime
from typing import Any

from django.core.management import call_command
from django.core.management.base import BaseCommand
from django.utils import timezone

from billing.pricing import prices
from compliance import audit
from compliance.keys import rotation
from controlplane.fleet import joining
from controlplane.fleet import services as fleet
from controlplane.fleet.models import Node, Pool, Region
from controlplane.tenancy import keys
from controlplane.tenancy import services as tenancy
from controlplane.tenancy.models import Organization, Project, Role, Scope, User

ORGANIZATION = "First organization"
PROJECT = "default"
POOL = "local"
LOGIN = "owner@stoa.localhost"
KEY_SCOPES = (Scope.INFERENCE, Scope.MANAGE, Scope.READ)


class Command(BaseCommand):
    help = "Migrate, grant, and make a first organization (idempotent)."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--region", default="eu-de-1")
        parser.add_argument("--country", default="DE")
        parser.add_argument(
            "--enrol",
            action="store_true",
            help="also draw an enrolment token for this machine",
        )

    def handle(self, *args: Any, **options: Any) -> None:
        known = json.loads(sys.stdin.read() or "{}") if not sys.stdin.isatty() else {}
        call_command("migrate", interactive=False, verbosity=0)
        call_command("grant_roles", verbosity=0, stdout=self.stderr)
        now = timezone.now()
        rotation.init(now=now)
        prices.publish_defaults(actor=audit.SYSTEM, now=now)
        region = _region(options["region"], options["country"], now)
        user, password = _user(known, now)
        organization = _organization(region, user, now)
        pool = _pool(region, organization, now)
        project = _project(organization, now)
        answer = {
            "project": project.id,
            "pool": pool.id,
            "login": user.email,
            "password": password,
            "api_key": _api_key(known, project, now),
            "enrollment_token": _token(pool, now) if options["enrol"] else "",
            "pin": joining.pin(region),
        }
        self.stdout.write(json.dumps(answer))


def _region(code: str, country: str, now: datetime) -> Region:
    found = Region.objects.filter(code=code).first()
    return found or fleet.create_region(
        code=code, country=country, name=code, actor=audit.SYSTEM, now=now
    )


def _user(known: dict[str, str], now: datetime) -> tuple[User, str]:
    """The owner's login; a password that nobody knows any more is drawn anew."""
    password = known.get("password", "")
    user = User.objects.filter(email=LOGIN).first()
    if user and password and user.check_password(password):
        return user, password
    password = secrets.token_urlsafe(12)
    if user is None:
        user = tenancy.create_user(
            actor=audit.SYSTEM, email=LOGIN, password=password, is_operator=True, now=now
        )
    else:
        tenancy.set_password(actor=audit.SYSTEM, user=user, password=password, now=now)
    return user, password


def _organization(region: Region, user: User, now: datetime) -> Organization:
    owned = Organization.objects.filter(memberships__user=user, memberships__role=Role.OWNER)
    return owned.order_by("id").first() or tenancy.create_organization(
        actor=audit.SYSTEM, name=ORGANIZATION, region_code=region.code, owner=user, now=now
    )


def _pool(region: Region, organization: Organization, now: datetime) -> Pool:
    found = Pool.objects.filter(region=region, name=POOL).first()
    return found or fleet.create_pool(
        region=region, name=POOL, organization=organization, actor=audit.SYSTEM, now=now
    )


def _project(organization: Organization, now: datetime) -> Project:
    found = Project.objects.filter(organization=organization).order_by("id").first()
    return found or tenancy.create_project(
        actor=audit.SYSTEM, organization=organization, name=PROJECT, now=now
    )


def _api_key(known: dict[str, str], project: Project, now: datetime) -> str:
    try:
        key = keys.authenticate_key(known.get("api_key", ""), now)
    except keys.MalformedKey:
        key = None
    if key is not None and key.project_id == project.id:
        return known["api_key"]
    _, secret = tenancy.issue_key(
        actor=audit.SYSTEM,
        project=project,
        name="first key",
        scopes=[scope.value for scope in KEY_SCOPES],
        now=now,
    )
    return secret


def _token(pool: Pool, now: datetime) -> str:
    """For this machine to join, or to join again as the node that it was."""
    node = Node.objects.filter(pool=pool, name=socket.gethostname(), removed_at=None).first()
    _, secret = fleet.issue_enrollment_token(pool=pool, node=node, actor=audit.SYSTEM, now=now)
    return secret
