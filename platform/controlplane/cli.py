"""`stoa …`: the command line of an installed wheel; the same commands as manage.py.

Some need no part in the house, and so no settings: models upload, predict, backup, evidence verify,
and billing recompute with --export.
"""

import os
import sys


def main() -> None:
    if sys.argv[1:3] == ["models", "upload"]:
        from controlplane.endpoints import upload_client

        sys.exit(upload_client.main(sys.argv[3:]))
    if sys.argv[1:2] == ["predict"]:
        from controlplane.endpoints import predict_client

        sys.exit(predict_client.main(sys.argv[2:]))
    if sys.argv[1:3] == ["billing", "recompute"] and _offline(sys.argv[3:]):
        from billing.invoices import recompute

        sys.exit(recompute.main(sys.argv[3:]))
    if sys.argv[1:3] == ["evidence", "verify"]:
        from compliance.bundles import stoa_verify

        sys.exit(stoa_verify.main(sys.argv[3:]))
    if sys.argv[1:2] == ["backup"]:
        # A program of its own: it also puts back a house that is not there.
        os.execv(sys.executable, [sys.executable, "-m", "workers.backup", *sys.argv[2:]])
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "controlplane.settings")
    from django.conf import settings
    from django.core.exceptions import ImproperlyConfigured
    from django.core.management import execute_from_command_line

    try:
        _ = settings.DEBUG  # the first look reads them all
    except ImproperlyConfigured as error:
        if sys.argv[1:2] not in ([], ["help"], ["--help"], ["-h"]):
            sys.exit(f"stoa: {error} (docs/settings.md says what each is)")
    execute_from_command_line(sys.argv)


def _offline(arguments: list[str]) -> bool:
    return any(each.split("=")[0] == "--export" for each in arguments)
