"""Data keys by the API: who sees them, that two people destroy them, and what can be taken away."""

import json
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.test import Client, override_settings
from django.utils import timezone

from compliance import audit, exports, keys
from compliance.bundles import stoa_verify
from compliance.keys import inventory, kms
from compliance.log import signing
from compliance.models import Export
from compliance.subjects import Subject
from controlplane.tenancy.models import User
from tests.api.house import House, signed_in
from tests.compliance.kms_places import fresh
from tests.logs import settle
from tests.signers import running

KEYS, DESTRUCTIONS = "/api/v1/data-keys", "/api/v1/key-destructions"


def post(client: Client, path: str, body: Any = None, expect: int = 200) -> Any:
    answer = client.post(path, body or {}, content_type="application/json")
    assert answer.status_code == expect, answer.content
    return answer.json()


def bundled(log: str, kind: str, about: str) -> stoa_verify.Report:
    """An export of today, as whoever has the file and the key alone sees it."""
    now = timezone.now() + timedelta(seconds=1)
    asked = exports.request(
        actor=audit.SYSTEM,
        log=log,
        kind=kind,
        about=about,
        reason="an audit",
        start=now - timedelta(days=1),
        end=now,
        now=now,
    )
    with running():
        settle(now)
        path = exports.archive(exports.build(asked.id, now))
        key = stoa_verify.Vkey.parse(signing.vkey())
        return stoa_verify.verify(path, stoa_verify.Options([key]))


def test_an_owner_asks_and_the_operator_approves(
    alice: House, mallory: House, operator: Client, tmp_path: Path
) -> None:
    ours = Subject("organization", alice.organization.id)
    blob = keys.seal(b"x", subject=ours, context="c")
    owner, stranger, clerk = (signed_in(one) for one in (alice.owner, mallory.owner, alice.billing))
    seen = owner.get(KEYS).json()["data"]
    assert {one["subject_id"] for one in seen} == {ours.id} and "wrapped" not in seen[0]
    assert not [one for one in stranger.get(KEYS).json()["data"] if one["subject_id"] == ours.id]
    body = {"subject": ours.id, "reason": "contract_ended"}
    for other in (stranger, clerk):
        post(other, DESTRUCTIONS, body, 404)
    post(owner, DESTRUCTIONS, body | {"subject": alice.owner.id}, 404)  # a person's: the operator
    post(owner, DESTRUCTIONS, body | {"reason": "because"}, 422)
    asked = post(owner, DESTRUCTIONS, body, 201)
    path = f"{DESTRUCTIONS}/{asked['id']}"
    assert post(owner, f"{path}/approve", expect=409)["code"] == "same_person"
    post(stranger, f"{path}/approve", expect=404)
    assert post(operator, DESTRUCTIONS, body, 409)["code"] == "already_requested"
    done = post(operator, f"{path}/approve")
    assert done["state"] == "done" and done["key_ids"] == [seen[0]["id"]]
    assert post(operator, f"{path}/refuse", expect=409)["code"] == "already_decided"
    with pytest.raises(keys.KeyDestroyed):
        keys.unseal(blob, subject=ours, context="c")

    log, now = ours.id, timezone.now() + timedelta(seconds=1)
    rows = list(inventory.data_keys(log, now - timedelta(days=1), now))
    assert [row[5] for row in rows] == ["destroyed"]
    assert len(inventory.CRYPTO) == len(next(inventory.crypto(log, now, now)))
    about = Export(log_id=log, about=done["id"])
    ((name, file),) = inventory.certificate(about, tmp_path)
    said = json.loads(file.read_text())
    assert name == "documents/certificate.json"
    assert said["keys_destroyed"] == done["key_ids"] and said["event"]["id"] == done["event_id"]
    assert said["requested"]["by"] == alice.owner.id != said["approved"]["by"]
    with pytest.raises(LookupError):
        list(inventory.certificate(Export(log_id=audit.PLATFORM, about=done["id"]), tmp_path))
    for kind, of in (("key_destruction", done["id"]), ("keys_crypto", "")):
        assert bundled(log, kind, of).exit_code() == 0, kind


def test_a_kms_that_is_away_is_told_and_nothing_is_half_done(alice: House, tmp_path: Path) -> None:
    person = Subject("person", alice.owner.id)
    assert keys.state(person) in ("none", "active")
    before = User.objects.count()
    client = signed_in(alice.owner)
    with override_settings(KMS_FILE=str(tmp_path / "none.json")), fresh():
        assert kms.current().name == "file"
        body = {"name": "later", "organization": alice.organization.id}
        answer = post(client, "/api/v1/projects", body, 503)
        assert answer["code"] == "kms_away"
    assert User.objects.count() == before
    assert not alice.organization.projects.filter(name="later").exists()
    post(client, "/api/v1/projects", body, 201)
