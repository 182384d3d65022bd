"""`stoa …`: the command line of an installed wheel; the same commands as manage.py.

Two of them need no part in the house, and so no settings: models upload, predict.
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
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "controlplane.settings")
    from django.core.management import execute_from_command_line

    execute_from_command_line(sys.argv)
