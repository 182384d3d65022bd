from typing import Any

from django.core.management.base import BaseCommand
from django.utils import timezone

from compliance import audit
from controlplane.tenancy import project_secrets


class Command(BaseCommand):
    help = "Seal projects' secrets anew under the first key of STOA_SECRETS_KEYS."

    def handle(self, **options: Any) -> None:
        count = project_secrets.reseal_secrets(actor=audit.SYSTEM, now=timezone.now())
        self.stdout.write(f"{count} secrets sealed anew")
