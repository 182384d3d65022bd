"""API keys on their page: the secret appears once."""

import re

from django.utils import timezone

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
