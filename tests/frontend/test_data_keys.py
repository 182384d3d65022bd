"""The console's page Keys: what there is, and destruction by two people; and a KMS that is away."""

from pathlib import Path

import pytest
from django.test import Client, override_settings

from compliance import keys
from compliance.models import DataKey, KeyDestruction
from compliance.subjects import Subject
from controlplane.tenancy.models import ProjectSecret, Role
from tests.api.house import House, signed_in
from tests.compliance.kms_places import fresh
from tests.frontend.reading import read

OURS, THEIRS, ASK = "/evidence/keys", "/operator/keys", "/key-destructions"


def test_an_owner_asks_and_another_person_destroys(
    alice: House, mallory: House, operator: Client
) -> None:
    ours = Subject("organization", alice.organization.id)
    blob = keys.seal(b"x", subject=ours, context="c")
    key = DataKey.objects.get(subject_id=ours.id)
    owner, stranger, clerk = (signed_in(one) for one in (alice.owner, mallory.owner, alice.billing))
    text = owner.get(OURS).content.decode()
    assert key.id in text and key.kek in text and "1 active, 0 destroyed" in text
    assert key.id not in stranger.get(OURS).content.decode()
    assert clerk.get(OURS).status_code == 403 and owner.get(THEIRS).status_code == 404
    form = {"log": ours.id, "reason": "contract_ended"}
    assert stranger.post(ASK, form).status_code == 404
    assert clerk.post(ASK, form).status_code == 403
    alice.billing.memberships.update(role=Role.AUDITOR)  # sees them, and asks for nothing
    auditor = signed_in(alice.billing)
    text = auditor.get(OURS).content.decode()
    assert key.id in text and "Ask for a destruction" not in text
    assert auditor.post(ASK, form).status_code == 404
    assert owner.post(ASK, form | {"reason": "because"}).status_code == 422
    assert not KeyDestruction.objects.exists()

    assert owner.post(ASK, form)["location"] == OURS
    asked = KeyDestruction.objects.get()
    assert "somebody has asked for it already" in owner.post(ASK, form).content.decode()
    page = read(owner.get(OURS))
    assert "another person approves it" in page.text and "Take it back" in page.text
    approve, sure = f"{ASK}/{asked.id}/approve", {"log": ours.id, "sure": "yes"}
    assert approve not in page.addresses
    same = owner.post(approve, sure, follow=True).content.decode()
    assert "another person than the one who asked approves it" in same
    for other in (stranger, auditor):
        assert other.post(approve, sure).status_code == 404
    assert (
        stranger.post(f"{ASK}/{asked.id}/refuse", {"log": mallory.organization.id}).status_code
        == 404
    )
    assert keys.unseal(blob, subject=ours, context="c") == b"x"

    page = read(operator.get(THEIRS))
    assert approve in page.addresses and "nothing to rewrap" in page.text and key.kek in page.text
    unsaid = operator.post(approve, {"log": "platform"}, follow=True)
    assert "Say that it is meant" in unsaid.content.decode()
    done = operator.post(approve, {"log": "platform", "sure": "yes"}, follow=True)
    assert "what they sealed opens no more" in done.content.decode()
    with pytest.raises(keys.KeyDestroyed):
        keys.unseal(blob, subject=ours, context="c")
    text = owner.get(OURS).content.decode()
    assert "0 active, 1 destroyed" in text and "1 destroyed</td>" in text
    late = operator.post(f"{ASK}/{asked.id}/refuse", {"log": "platform"}, follow=True)
    assert "it was decided already" in late.content.decode()


def test_the_operator_asks_for_a_persons_and_takes_it_back(alice: House, operator: Client) -> None:
    person = Subject("person", alice.owner.id)
    keys.seal(b"x", subject=person, context="c")
    form = {"log": "platform", "subject": "usr_nobody", "reason": "erasure"}
    answer = operator.post(ASK, form)
    assert answer.status_code == 422 and b"There is no such person" in answer.content
    assert operator.post(ASK, form | {"subject": person.id})["location"] == THEIRS
    asked = KeyDestruction.objects.get()
    assert asked.id[-6:] not in signed_in(alice.owner).get(OURS).content.decode()
    text = operator.get(THEIRS, {"subject": person.id}).content.decode()
    assert "1 active, 0 destroyed" in text
    DataKey.objects.update(kek="file/0")  # as though there had been a rotation
    assert "rewrap under way" in operator.get(THEIRS).content.decode()
    assert operator.post(f"{ASK}/{asked.id}/refuse", {"log": "platform"}).status_code == 302
    asked.refresh_from_db()
    assert asked.state == KeyDestruction.REFUSED and keys.state(person) == "active"


def test_a_kms_that_is_away_is_told_by_a_page(
    alice: House, operator: Client, tmp_path: Path
) -> None:
    client = signed_in(alice.owner)
    form = {"project": alice.project.id, "kind": "hub", "name": "later", "value": "hf_x"}
    with override_settings(KMS_FILE=str(tmp_path / "none.json")), fresh():
        answer = client.post("/secrets", form)
        assert answer.status_code == 503
        page = read(answer)
        assert "Nothing was changed" in page.text and page.inline == []
        visitor = Client()
        signing = {"username": alice.owner.email, "password": "correct horse battery"}
        assert visitor.post("/sign-in", signing).status_code == 503
        assert visitor.get("/endpoints").status_code == 302  # and nobody is signed in by it
        assert client.get("/endpoints").status_code == 200
        assert "the KMS does not answer" in operator.get(THEIRS).content.decode()
    assert not ProjectSecret.objects.filter(name="later").exists()
    assert client.post("/secrets", form).status_code == 302
