"""A create that is repeated with its Idempotency-Key happens once."""

import threading
from typing import Any

import pytest
from django.db import connection
from django.test import Client

from controlplane.api import idempotency
from controlplane.api.models import StoredReply
from controlplane.tenancy.models import ApiKey, Project
from tests.api.house import House, post, signed_in, with_key


def create(client: Client, alice: House, name: str = "twice", key: str = "k-1") -> Any:
    body = {"organization": alice.organization.id, "name": name}
    return post(client, "/projects", body, **{"idempotency-key": key})


def test_the_same_again_answers_the_same(alice: House) -> None:
    client = signed_in(alice.owner)
    first, second = create(client, alice), create(client, alice)
    assert (first.status_code, second.status_code) == (201, 201)
    assert first.json() == second.json()
    assert "idempotent-replayed" not in first.headers
    assert second.headers["idempotent-replayed"] == "true"
    assert Project.objects.filter(name="twice").count() == 1


def test_another_body_under_the_same_key_is_a_mistake(alice: House) -> None:
    client = signed_in(alice.owner)
    create(client, alice)
    answer = create(client, alice, name="another")
    assert answer.status_code == 422
    assert answer.json()["code"] == "idempotency_key_reused"
    assert not Project.objects.filter(name="another").exists()


def test_keys_of_two_people_do_not_meet(alice: House, mallory: House) -> None:
    create(signed_in(alice.owner), alice)
    answer = create(signed_in(mallory.owner), mallory)
    assert answer.status_code == 201
    assert answer.json()["organization"] == mallory.organization.id


def test_a_refused_create_may_be_tried_again(alice: House) -> None:
    client = signed_in(alice.owner)
    assert create(client, alice, name="").status_code == 422
    assert not StoredReply.objects.exists()
    assert create(client, alice).status_code == 201


def test_a_new_keys_secret_is_not_at_rest_in_clear(alice: House) -> None:
    client = with_key(alice.secret)
    body = {"project": alice.project.id, "name": "new"}
    first = post(client, "/api-keys", body, **{"idempotency-key": "k"})
    secret = first.json()["secret"]
    stored = StoredReply.objects.get()
    assert secret.encode() not in bytes(stored.sealed_body)
    assert post(client, "/api-keys", body, **{"idempotency-key": "k"}).json()["secret"] == secret
    assert ApiKey.objects.filter(name="new").count() == 1


def test_an_unusable_key_is_refused(alice: House) -> None:
    answer = create(signed_in(alice.owner), alice, key="x" * 256)
    assert answer.status_code == 400
    assert not Project.objects.filter(name="twice").exists()


@pytest.mark.django_db(transaction=True)
def test_many_at_once_make_one(transactional_db: None, alice: House) -> None:
    answers: list[Any] = []

    def ask() -> None:
        try:
            answers.append(create(signed_in(alice.owner), alice))
        finally:
            connection.close()

    threads = [threading.Thread(target=ask) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert Project.objects.filter(name="twice").count() == 1
    assert {answer.status_code for answer in answers} <= {201, 409}
    assert any(answer.status_code == 201 for answer in answers)


def test_a_claim_of_a_dead_process_is_given_up(alice: House) -> None:
    client = signed_in(alice.owner)
    create(client, alice)
    stored = StoredReply.objects.get()
    StoredReply.objects.update(status=None)
    assert create(client, alice).json()["code"] == "idempotency_in_progress"
    StoredReply.objects.update(created_at=stored.created_at - idempotency.ABANDONED_AFTER)
    Project.objects.filter(name="twice").delete()
    assert create(client, alice).status_code == 201
