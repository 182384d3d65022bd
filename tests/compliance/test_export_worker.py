"""A worker that dies while it builds a long export: its progress is seen, the next one ends it."""

import os
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from django.db import connection
from pytest_django import Settings

from billing.models import Account
from compliance import audit, exports
from compliance.bundles import kinds, stoa_verify
from compliance.log import signing
from compliance.models import Export
from controlplane.tenancy.models import Organization
from tests.logs import settle
from tests.signers import running

NOW = datetime(2026, 3, 14, 9, 26, 53, tzinfo=UTC)
LOG = "org_00000000000000000000000000"
# A worker as it is, but for a dataset that does not end.
WORKER = """
import django, itertools, sys, datetime
django.setup()
from django.conf import settings
from pathlib import Path
from compliance import exports
settings.VAR = Path(sys.argv[1])
exports.TELL_S = 0
for name in ("long", "usage"):
    exports.register(name, ("n",), lambda log, start, end: ((n,) for n in itertools.count()))
exports.build_waiting(datetime.datetime.fromisoformat(sys.argv[2]))
"""


def ask(kind: str) -> Export:
    return exports.request(
        actor=audit.Actor("user", "usr_ada", "session"),
        log=LOG,
        reason="yearly audit",
        start=NOW - timedelta(days=30),
        end=NOW,
        now=NOW,
        kind=kind,
    )


@pytest.mark.parametrize("kind", ["records", "switching"])
@pytest.mark.django_db(transaction=True)
def test_an_export_outlives_its_builder(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    settings.VAR = tmp_path
    account = Account.objects.create(name="acme", created_at=NOW)
    Organization.objects.create(
        id=LOG, name="acme", region_code="eu-de-1", account=account, created_at=NOW
    )
    with running():
        export = ask(kind)
        settle(NOW)
        assert killed_while_building(export, tmp_path)
        export.refresh_from_db()
        assert export.completed_at is None
        assert export.failure == ""
        assert not exports.archive(export).exists()
        (draft,) = (tmp_path / "exports").iterdir()  # what the dead one left
        if kind == "records":
            few = {"audit_events": kinds.datasets["audit_events"]}
            monkeypatch.setattr(kinds, "datasets", few)
        assert exports.build_waiting(NOW) == 1
        key = stoa_verify.Vkey.parse(signing.vkey())
    report = stoa_verify.verify(exports.archive(export), stoa_verify.Options([key]))
    assert report.exit_code() == stoa_verify.OK
    os.utime(draft, (0, 0))
    exports.build_waiting(NOW)
    assert not draft.exists()


def killed_while_building(export: Export, var: Path) -> bool:
    """Whether its progress was seen before it was killed."""
    given = connection.get_connection_params()
    url = "postgresql://{user}:{password}@{host}:{port}/{dbname}".format(**given)
    env = os.environ | {"DATABASE_URL": url, "DJANGO_SETTINGS_MODULE": "controlplane.settings"}
    command = [sys.executable, "-c", WORKER, f"{var}", NOW.isoformat()]
    worker = subprocess.Popen(command, env=env)
    try:
        while worker.poll() is None:
            if Export.objects.values_list("rows_done", flat=True).get(id=export.id):
                return True
            time.sleep(0.05)
        return False
    finally:
        worker.kill()
        worker.wait()
