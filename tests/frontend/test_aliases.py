"""Aliases on their page: added, seen in their order, changed, removed."""

from compliance.models import AuditEvent
from controlplane.endpoints.models import Alias, Endpoint
from tests.api.house import House, signed_in


def test_an_alias_is_added_seen_changed_and_removed(alice: House) -> None:
    client = signed_in(alice.owner)
    wish = {
        "project": alice.project.id,
        "name": "gpt-4o-mini",
        "targets": "chat",
        "fallback_on": ["no_capacity", "context_overflow"],
    }
    assert client.post("/aliases", wish).headers["location"] == "/aliases"
    alias = Alias.objects.get(name="gpt-4o-mini")
    text = client.get("/aliases").content.decode()
    assert "gpt-4o-mini" in text
    assert f'<a href="/endpoints/{alice.endpoint.id}">chat</a>' in text
    assert "does not fit its context window" in text
    page = f"/aliases/{alias.id}"
    shown = client.get(page).content.decode()
    assert 'name="targets" value="chat"' in shown
    assert 'name="name"' not in shown
    other = Endpoint.objects.get(id=alice.endpoint.id)
    other.pk, other.name = "ep_01k0000000000000000000000z", "spare"
    other.save(force_insert=True)
    assert client.post(page, {"targets": "spare, chat"}).headers["location"] == "/aliases"
    alias.refresh_from_db()
    assert (alias.targets, alias.fallback_on) == (["spare", "chat"], [])
    text = client.get("/aliases").content.decode().partition("<code>gpt-4o-mini")[2]
    assert text.index(">spare</a>") < text.index(">chat</a>")
    assert '<span class="faint">never</span>' in text
    assert "Remove gpt-4o-mini?" in client.get(f"{page}/delete").content.decode()
    assert Alias.objects.filter(id=alias.id).exists()
    client.post(f"{page}/delete")
    assert not Alias.objects.filter(id=alias.id).exists()
    assert client.get(page).status_code == 404
    told = AuditEvent.objects.filter(target_id=alias.id).order_by("id")
    assert [one.action for one in told] == ["alias.create", "alias.update", "alias.delete"]


def test_what_is_refused_says_why_at_its_field(alice: House) -> None:
    client = signed_in(alice.owner)
    right = {"project": alice.project.id, "name": "fresh", "targets": "chat"}
    before = Alias.objects.count()
    for wrong, field in (
        ({"name": "a b"}, "name"),
        ({"name": ""}, "name"),
        ({"name": "gpt-4o"}, "name"),
        ({"name": "chat"}, "name"),
        ({"targets": ""}, "targets"),
        ({"targets": "nothing"}, "targets"),
        ({"targets": "chat, chat"}, "targets"),
        ({"targets": "chat:nobody"}, "targets"),
        ({"fallback_on": "whim"}, "fallback_on"),
    ):
        answer = client.post("/aliases", {**right, **wrong})
        assert answer.status_code == 422, wrong
        assert f'id="id_{field}_error"' in answer.content.decode(), wrong
    assert Alias.objects.count() == before
    page = f"/aliases/{alice.alias.id}"
    answer = client.post(page, {"targets": "nothing"})
    assert answer.status_code == 422
    assert b'value="nothing"' in answer.content


def test_an_endpoint_that_is_gone_is_marked(alice: House) -> None:
    Endpoint.objects.filter(id=alice.endpoint.id).update(deleted_at=alice.endpoint.created_at)
    text = signed_in(alice.owner).get("/aliases").content.decode()
    assert 'chat <span class="state calm">gone</span>' in text
