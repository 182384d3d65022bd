"""`manage.py gateway_certificate`: what a gateway shows to the relays of its region's nodes."""

import os
from datetime import timedelta
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.utils import timezone

from compliance import audit
from controlplane.fleet import errors, revoking
from controlplane.fleet.management import finding

MAX_DAYS = 90


class Command(BaseCommand):
    help = "Issue a gateway's certificate: writes certificate.pem, key.pem and ca.pem (0600)."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--region", required=True, help="the region that the gateway serves")
        parser.add_argument("--id", required=True, help="the gateway's STOA_GATEWAY_ID")
        parser.add_argument("--out", required=True, type=Path, help="a folder, made if missing")
        parser.add_argument("--days", type=float, default=30, help=f"up to {MAX_DAYS}")

    def handle(self, *_: Any, **options: Any) -> None:
        if not 0 < options["days"] <= MAX_DAYS:
            raise CommandError(f"--days: up to {MAX_DAYS}.")
        region = finding.region(options["region"])
        key = Ed25519PrivateKey.generate()
        request = (
            x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).sign(key, None)
        )
        try:
            certificate = revoking.issue_gateway_certificate(
                region=region,
                gateway_id=options["id"],
                csr_pem=request.public_bytes(serialization.Encoding.PEM).decode(),
                actor=audit.SYSTEM,
                now=timezone.now(),
                lifetime=timedelta(days=options["days"]),
            )
        except errors.FleetError as error:
            raise CommandError(str(error)) from error
        private = key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        try:
            options["out"].mkdir(mode=0o700, parents=True, exist_ok=True)
            _write(options["out"] / "key.pem", private)
            _write(options["out"] / "certificate.pem", certificate.encode())
            _write(options["out"] / "ca.pem", region.ca_certificate.encode())
        except OSError as error:
            raise CommandError(f"{error.filename}: {error.strerror}") from error
        self.stdout.write(f"{options['out']}: good for {options['days']:g} days.")


def _write(path: Path, content: bytes) -> None:
    """Whole or not at all, and never readable by others, not even for a moment."""
    fresh = path.with_name(f".{path.name}.new")
    fresh.unlink(missing_ok=True)
    with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(content)
    fresh.replace(path)
