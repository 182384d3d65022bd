"""`manage.py grant_roles`: after each migration, as the tables' owner."""

from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError

from compliance import grants


class Command(BaseCommand):
    help = "Give the app's and the gateway's database roles what they need, and nothing else."

    def handle(self, *_: Any, **__: Any) -> None:
        try:
            grants.apply(settings.APP_ROLE, settings.GATEWAY_ROLE)
        except grants.RoleMissing as error:
            raise CommandError(str(error)) from error
