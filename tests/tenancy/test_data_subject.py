"""What is held of one person, for that person: all of it, and nothing of anybody else's."""

import json
from datetime import timedelta
from pathlib import Path

import pytest
from pytest_django import Settings

from compliance import audit
from compliance.context import RequestContext
from compliance.models import Export
from compliance.privacy import registry, stores
from compliance.subject_requests import bundle
from compliance.subjects import PERSON, Subject
from controlplane.batches import files
from controlplane.fleet.models import Maintenance, Node, Pool, Region
from controlplane.tenancy import notices, services
from controlplane.tenancy.models import Role, User
from tests.tenancy.conftest import NOW, Tenant

# One of each place that a person's values are in.
PLACES = (*("key", "ip", "browser", "filename", "reason", "told", "message", "words"),)


@pytest.fixture(autouse=True)
def var(settings: Settings, tmp_path: Path) -> None:
    settings.VAR = tmp_path


def planted(tenant: Tenant, user: User) -> None:
    """Each value begins with the person's own address up to its @, and tells where it stands."""
    name = user.email.partition("@")[0]
    actor = audit.Actor("user", user.id, "session")
    here = {"actor": actor, "project": tenant.project, "now": NOW}
    services.issue_key(**here, name=f"{name}-key", scopes=["read"])  # type: ignore[arg-type]
    upload = files.begin(**here)  # type: ignore[arg-type]
    upload.write(b"{}")
    filename = f"{name}-filename"
    files.create(actor=actor, upload=upload, filename=filename, purpose="batch", now=NOW)
    audit.record(
        actor=actor,
        action="session.create",
        target=audit.Target("user", user.id),
        log=tenant.organization.id,
        now=NOW,
        personal={"words": f"{name}-words"},
        request=RequestContext("r", ip=f"{name}-ip", user_agent=f"{name}-browser"),
    )
    about = audit.Target("user", user.id)
    notices.tell(
        tenant.organization,
        subject="about you",
        text=f"{name}-told",
        about=about,
        key=name,
        now=NOW,
    )
    period = {"period_start": NOW, "period_end": NOW + timedelta(days=1), "created_at": NOW}
    log = tenant.organization.id
    Export.objects.create(
        log_id=log, kind="records", reason=f"{name}-reason", requested_by=user.id, **period
    )
    pool = Pool.objects.get_or_create(name="p", region_id="eu-de-1", created_at=NOW)[0]
    node = Node.objects.create(
        **{"pool": pool, "name": f"n{user.id[-6:]}", "created_at": NOW},
        certificate_sha256=user.id,
        certificate_expires_at=NOW,
    )
    Maintenance.objects.create(
        **{"node": node, "starts_at": NOW, "ends_at": NOW + timedelta(1), "created_at": NOW},
        message=f"{name}-message",
        created_by=user.id,
    )


def document(user: User, folder: Path, profile: str = "full") -> str:
    export = Export(kind=bundle.KIND, about=user.id, profile=profile, created_at=NOW)
    folder.mkdir()
    written = dict(bundle.documents(export, folder))
    assert {"documents/README.txt", "documents/data.json"} <= written.keys()
    return "\n".join(path.read_text() for path in written.values())


def test_all_of_one_person_and_nothing_of_another(ours: Tenant, tmp_path: Path) -> None:
    Region.objects.create(code="eu-de-1", country="DE", name="x", created_at=NOW)
    zoe, eve = ours.people[Role.DEVELOPER], ours.people[Role.ADMIN]
    for user, name in ((zoe, "zoe-canary"), (eve, "eve-canary")):
        user.email = f"{name}@ours.eu"
        user.save()
        planted(ours, user)
    text = document(zoe, tmp_path / "zoe")
    for place in PLACES:
        assert f"zoe-canary-{place}" in text, place
    assert "zoe-canary@ours.eu" in text
    assert "eve-canary" not in text
    assert eve.id not in text
    said = json.loads((tmp_path / "zoe" / "data.json").read_text())
    tables = {one["tables"][0]: one for one in said["places"] if one["tables"]}
    for place in said["places"]:
        assert place["rows"] and place["purpose"] and place["legal_basis"] and place["retention"]
    assert tables["tenancy_user"]["portable"] == ["email"]
    assert "password" not in tables["tenancy_user"]["rows"][0]
    # Every personal column of a table that has a row of hers is in it.
    known = {one.name: one for one in registry.everything()}
    for store in stores.of(Subject(PERSON, zoe.id)):
        if isinstance(store, stores.Rows) and store.find(Subject(PERSON, zoe.id)).rows:
            wanted = set(known[store.tables[0]].at(registry.PERSONAL))
            (place,) = (one for one in said["places"] if one["store"] == store.name)
            assert wanted <= place["rows"][0].keys(), store.name
    assert "zoe-canary" not in document(zoe, tmp_path / "less", "pseudonymised")
