"""API keys on their page: the secret appears once."""

import re
from datetime import timedelta

import pytest
from django.utils import timezone

from compliance.models import AuditEvent
from controlplane.tenancy import keys
from controlplane.tenancy.models import ApiKey
from tests.api.house import House, signed_in

SECRET = re.compile(r"sk-stoa-[0-9a-z]{8}-[0-9A-Za-z_-]{43}")


def test_a_new_key_is_shown_once_and_works(alice: House) -> None:
    client = signed_in(alice.owner)
    body = {
        "project": alice.project.id,
        "name": "agent",
        "scopes": ["inference", "read"],
        "allowed_models": "chat, other",
        "expires": "30",
    }
    answer = client.post("/keys", body)
    found = set(SECRET.findall(answer.content.decode()))
    assert len(found) == 1
    assert "no-store" in answer.headers["cache-control"]
    secret = found.pop()
    key = keys.authenticate_key(secret, timezone.now())
    assert key is not None
    assert (key.name, key.scopes, key.allowed_models) == (
        "agent",
        ["inference", "read"],
        ["chat", "other"],
    )
    assert key.expires_at is not None
    assert (key.expires_at - key.created_at).days == 30
    later = client.get("/keys").content.decode()
    assert key.prefix in later
    assert secret not in later
    assert not SECRET.search(later)
    # Neither the session nor a message carries it on.
    assert secret not in str(dict(client.session.items()))


def test_a_refused_key_keeps_what_was_typed(alice: House) -> None:
    client = signed_in(alice.owner)
    body = {"project": alice.project.id, "name": "agent\x07", "scopes": "read"}
    before = ApiKey.objects.count()
    answer = client.post("/keys", {**body, "allowed_models": "kept"})
    text = answer.content.decode()
    assert answer.status_code == 422
    assert ApiKey.objects.count() == before
    assert "control characters" in text
    assert 'value="kept"' in text
    assert not SECRET.search(text)
    nameless = client.post("/keys", {**body, "name": ""})
    assert b'id="id_name_error"' in nameless.content
    scopeless = client.post("/keys", {"project": alice.project.id, "name": "x"})
    assert b'id="id_scopes_error"' in scopeless.content


def test_revoking_asks_first(alice: House) -> None:
    client = signed_in(alice.owner)
    asked = client.get(f"/keys/{alice.key_id}/revoke")
    assert b"Revoke it" in asked.content
    assert ApiKey.objects.get(id=alice.key_id).revoked_at is None
    done = client.post(f"/keys/{alice.key_id}/revoke", follow=True)
    assert ApiKey.objects.get(id=alice.key_id).revoked_at is not None
    assert b"revoked" in done.content
    assert f"/keys/{alice.key_id}/revoke" not in done.content.decode()


def test_rotating_shows_the_new_secret_once_and_ends_the_old_one_later(alice: House) -> None:
    client = signed_in(alice.owner)
    page = f"/keys/{alice.key_id}"
    answer = client.post(f"{page}/rotate", {"overlap_s": "3600"})
    found = set(SECRET.findall(answer.content.decode()))
    assert len(found) == 1
    secret = found.pop()
    now = timezone.now()
    for each, at, lives in (
        (secret, now + timedelta(hours=2), True),
        (alice.secret, now + timedelta(minutes=59), True),
        (alice.secret, now + timedelta(minutes=61), False),
    ):
        key = keys.authenticate_key(each, at)
        assert (key is not None and key.id == alice.key_id) is lives
    later = client.get(page).content.decode()
    assert secret not in later
    new, old = ApiKey.objects.get(id=alice.key_id).secrets.all()
    assert (new.expires_at, old.expires_at is not None) == (None, True)
    assert later.index(new.prefix) < later.index(old.prefix)
    old.last_used_at = now
    old.save()
    later = client.get(page).content.decode()
    assert f"{now:%Y-%m-%d %H:%M:%S}" in later
    assert f"{old.expires_at:%Y-%m-%d %H:%M:%S}" in later
    assert "with the key" in later
    client.post(f"{page}/rotate", {"overlap_s": "0"})
    assert keys.authenticate_key(alice.secret, timezone.now()) is None
    assert keys.authenticate_key(secret, timezone.now()) is None
    assert '<span class="state calm">over</span>' in client.get(page).content.decode()
    told = AuditEvent.objects.filter(target_id=alice.key_id, action="api_key.rotate")
    assert told.count() == 2


@pytest.mark.parametrize("overlap", ["", "-1", "999999999", "soon"])
def test_an_overlap_that_is_none_rotates_nothing(alice: House, overlap: str) -> None:
    answer = signed_in(alice.owner).post(f"/keys/{alice.key_id}/rotate", {"overlap_s": overlap})
    assert answer.status_code == 422
    assert b'id="id_overlap_s_error"' in answer.content
    assert ApiKey.objects.get(id=alice.key_id).secrets.count() == 1


LIMITS = {
    "requests_per_minute": "60",
    "input_tokens_per_minute": "1000",
    "output_tokens_per_minute": "",
    "concurrency": "4",
    "allowed_models": "chat, chat:tone",
    "networks": "192.0.2.0/24\n2001:db8::/32",
    "priority": "-3",
}


def test_the_limits_of_a_key_are_set_seen_and_taken_away(alice: House) -> None:
    client, page = signed_in(alice.owner), f"/keys/{alice.key_id}"
    done = client.post(page, LIMITS, follow=True)
    key = ApiKey.objects.get(id=alice.key_id)
    assert (key.requests_per_minute, key.input_tokens_per_minute) == (60, 1000)
    assert (key.output_tokens_per_minute, key.concurrency, key.priority) == (None, 4, -3)
    assert key.allowed_models == ["chat", "chat:tone"]
    assert key.networks == ["192.0.2.0/24", "2001:db8::/32"]
    text = done.content.decode()
    for part in ('value="60"', 'value="192.0.2.0/24, 2001:db8::/32"', 'value="-3"'):
        assert part in text, part
    client.post(page, LIMITS)  # the same again is no event
    told = AuditEvent.objects.filter(target_id=alice.key_id, action="api_key.update")
    assert told.count() == 1
    client.post(page, {"priority": "0"})
    key.refresh_from_db()
    assert (key.requests_per_minute, key.networks, key.allowed_models) == (None, [], [])


def test_a_refused_limit_stands_beside_its_field(alice: House) -> None:
    client, page = signed_in(alice.owner), f"/keys/{alice.key_id}"
    for field, value in (
        ("requests_per_minute", "0"),
        ("concurrency", "99999999999"),
        ("networks", "192.0.2.1/24"),
        ("networks", "fe80::1%eth0"),
        ("priority", "101"),
        ("priority", ""),
        ("allowed_models", "a" * 101),
    ):
        answer = client.post(page, {**LIMITS, field: value})
        assert answer.status_code == 422, field
        assert f'id="id_{field}_error"' in answer.content.decode(), field
    assert ApiKey.objects.get(id=alice.key_id).requests_per_minute is None


def test_a_revoked_key_is_seen_and_not_changed(alice: House) -> None:
    client, page = signed_in(alice.owner), f"/keys/{alice.key_id}"
    client.post(f"{page}/revoke")
    text = client.get(page).content.decode()
    assert '<span class="state calm">revoked</span>' in text
    assert "Rotate key" not in text
    assert "no limit" in text
    assert client.post(page, LIMITS).status_code == 422
    refused = client.post(f"{page}/rotate", {"overlap_s": "0"})
    assert refused.status_code == 422
    assert not SECRET.search(refused.content.decode())
