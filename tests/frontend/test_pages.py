"""Every page: for whom it is, under which policy, and without a word of anybody else's."""

import re
from typing import Any

import pytest
from django.test import Client
from django.urls import URLPattern

from billing.models import Budget, RunStop
from controlplane.endpoints import engine_versions
from controlplane.tenancy.models import Role
from frontend import navigation
from frontend.urls import urlpatterns
from tests.api.house import NOW, House, signed_in
from tests.api.test_strangers import asked as house_request
from tests.api.test_strangers import budget as house_budget
from tests.api.test_strangers import destruction as house_destruction
from tests.api.test_strangers import erasure as house_erasure
from tests.api.test_strangers import hold as house_hold
from tests.api.test_strangers import invoice as house_invoice
from tests.api.test_strangers import notice as house_notice
from tests.api.test_strangers import pull as house_pull
from tests.api.test_strangers import quote as house_quote
from tests.api.test_strangers import secret as house_secret
from tests.api.test_strangers import stored_method as house_method
from tests.api.test_strangers import subscription as house_subscription
from tests.api.test_strangers import upload as house_upload
from tests.frontend.reading import read

OPERATORS = {
    "nodes",
    "node-enrol",
    "node-act",
    "node-events",
    "pool-health",
    "pool-placement",
    "engines",
    "engine-add",
    "engine-act",
    "billing-bank",
    "billing-bank-decide",
    "billing-collect",
    "billing-collection",
    "billing-reopen",
    "billing-journal",
    "billing-operator",
    "billing-act",
    "erasure",
    "erasure-plan",
}
OPEN = {"sign-in", "sign-out", "home", "verifier", "verifier-digest", "log-key"}
OPEN |= {"leaving", "leaving-register", "leaving-schema"}
BUDGET = {"amount": "1", "unit": "calls", "window": "day", "time_zone": "UTC", "hard": "yes"}
RUN = "run_00000000000000000000"


def address(route: str, house: House, verb: str = "cordon") -> str:
    """A route of this room with the ids of `house` in it."""
    budget = house_budget(house)
    ids = {
        "aliases": house.alias.id,
        "batches": house.batch_id,
        "budgets": budget,
        "endpoints": house.endpoint.id,
        "invoices": house_invoice(house),
        "keys": house.key_id,
        "log-subscriptions": house_subscription(house),
        "nodes": house.node.id,
        "notices": house_notice(house),
        "pools": house.pool.id,
        "payment-methods": house_method(house),
        "projects": house.project.id,
        "pulls": house_pull(house),
        "quotes": house_quote(house),
        "requests": house_request(house),
        "erasures": house_erasure(house),
        "key-destructions": house_destruction(house),
        "privacy": house_hold(house),
        "secrets": house_secret(house),
        "uploads": house_upload(house),
    }
    thing = ids.get(route.split("/")[0], "")
    named = {
        "<str:id>": thing,
        "<str:verb>": verb,
        "<str:ref>": RUN,
        "<str:form>": "pdf",
        "<str:month>": "2026-03",
        "<int:index>": "0",
    }
    for name, value in named.items():
        route = route.replace(name, value)
    return f"/{route}"


def routes() -> list[tuple[str, str]]:
    found = [(one.name or "", str(one.pattern)) for one in urlpatterns]
    assert all(isinstance(one, URLPattern) for one in urlpatterns)
    return found


def pages() -> list[str]:
    return [route for name, route in routes() if name not in OPEN | OPERATORS]


def get(client: Client, path: str) -> Any:
    return client.get(path)


def test_no_page_has_anything_inline(alice: House, operator: Client) -> None:
    owner = signed_in(alice.owner)
    seen = 0
    asked = [(owner, address(route, alice)) for route in pages()]
    engine_versions.ship(NOW)
    asked += [
        (operator, "/engines"),
        (operator, "/nodes"),
        (operator, "/billing/bank"),
        (operator, "/billing/operator"),
        (operator, "/margin"),
        (operator, "/requests"),
        (operator, "/operator/keys"),
        (operator, f"/requests/{house_request(alice)}"),
        (operator, f"/erasures/{house_erasure(alice)}"),
        (operator, f"/pools/{alice.pool.id}/health"),
        (operator, f"/pools/{alice.pool.id}/placement"),
        (operator, "/endpoints"),
        (Client(), "/sign-in"),
        (Client(), "/switching"),
    ]
    asked += [(owner, "/nothing"), (owner, "/costs?by=hour&whole=1"), (owner, "/costs?by=run")]
    for client, path in asked:
        answer = get(client, path)
        if answer.status_code == 405:
            continue
        seen += 1
        policy = answer.headers["content-security-policy"]
        assert "default-src 'self'" in policy, path
        assert "unsafe" not in policy, path
        page = read(answer)
        assert page.inline == [], path
        assert all(one.startswith(("/", "#", "?")) for one in page.addresses if one), path
        assert len(page.ids) == len(set(page.ids)), path
        assert page.unlabelled == [], path
        posts = [form for form in page.forms if form.get("method") == "post"]
        assert page.tokens == len(posts), path
    assert seen > 15


def test_every_page_is_in_one_section_of_the_console() -> None:
    for name, _ in routes():
        found = [one for section in navigation.SECTIONS for one in section.pages if one.holds(name)]
        assert len(found) == (0 if name in OPEN | {"switch", "notice-close"} else 1), name


def test_the_console_says_where_one_is(alice: House, operator: Client) -> None:
    text = re.sub(r"\s+", " ", get(operator, "/margin").content.decode())
    for section in ("Serving", "Models", "Access", "Money", "Fleet", "Books"):
        assert f">{section}</a>" in text
    assert 'aria-current="true">Books</a>' in text
    assert 'aria-current="page">Margin</a>' in text
    mine = get(signed_in(alice.owner), "/costs").content.decode()
    assert ">Books</a>" not in mine and ">Fleet</a>" not in mine and ">Bank</a>" not in mine


def test_whole_pages_have_landmarks_and_a_way_past_them(alice: House) -> None:
    page = read(get(signed_in(alice.owner), f"/endpoints/{alice.endpoint.id}"))
    for part in ('class="skip" href="#main"', '<main id="main"', "<nav", "<header", 'lang="en"'):
        assert part in page.text
    assert '"allowEval":false' in page.text
    assert '"includeIndicatorStyles":false' in page.text


def test_strangers_find_nothing(alice: House, mallory: House) -> None:
    client = signed_in(mallory.owner)
    asked = 0
    for name, route in routes():
        if "<str:id>" not in route and name not in OPERATORS:
            continue
        for method in (client.get, client.post):
            for headers in ({}, {"hx-request": "true"}):
                answer = method(address(route, alice), headers=headers)
                text = answer.content.decode()
                refreshed = answer.headers.get("hx-refresh") == "true" and not text
                assert answer.status_code in (404, 405) or refreshed, (name, answer.status_code)
                assert "alice" not in text, name
                assert alice.organization.id not in text, name
                asked += 1
    assert asked > 60
    assert not RunStop.objects.exists()
    alice.alias.refresh_from_db()
    alice.endpoint.refresh_from_db()
    assert (alice.endpoint.stopped_at, alice.endpoint.deleted_at) == (None, None)


def test_strangers_cannot_name_a_place(alice: House, mallory: House) -> None:
    client = signed_in(mallory.owner)
    for path, body in (
        ("/switch", {"place": alice.project.id}),
        ("/switch", {"place": alice.organization.id}),
        ("/endpoints/new", {"project": alice.project.id, "name": "x"}),
        ("/keys", {"project": alice.project.id, "name": "x", "scopes": "inference"}),
        ("/budgets", {"project": alice.project.id, "whose": "project", "amount": "1"}),
        ("/aliases", {"project": alice.project.id, "name": "x", "targets": "chat"}),
        ("/secrets", {"project": alice.project.id, "kind": "hub", "name": "x", "value": "y"}),
        ("/quotes", {"project": alice.project.id, "model": "org/x"}),
        ("/pulls", {"project": alice.project.id, "pool": alice.pool.id, "model": "org/x"}),
        ("/limits", {"project": alice.project.id, "form": "project", "concurrency": "1"}),
        ("/limits", {"project": alice.project.id, "form": "organization", "concurrency": "1"}),
        ("/limits", {"project": alice.project.id, "form": "runs", "own": "own"}),
        ("/runs", {"project": alice.project.id, "what": "run", "name": "night"}),
        ("/evidence", {"organization": alice.organization.id, "reason": "x"}),
    ):
        assert client.post(path, body).status_code == 404, path
    mine = mallory.endpoint.id
    mixed = {"project": mallory.project.id, **BUDGET, "whose": "key", "key": alice.key_id}
    assert client.post("/budgets", mixed).status_code == 422
    assert not Budget.objects.filter(subject_id=alice.key_id).exists()
    other = client.get(f"/endpoints/{mine}/log?replica={alice.replica.id}")
    assert other.status_code == 404
    wanted = {"log": alice.organization.id}
    assert client.get("/evidence/exports", wanted).status_code == 404


def test_lists_show_nothing_of_strangers(alice: House, mallory: House) -> None:
    client = signed_in(mallory.owner)
    for make in (house_budget, house_pull, house_upload):
        make(alice)
    for path in (
        "/endpoints",
        "/keys",
        "/aliases",
        "/secrets",
        "/uploads",
        "/pulls",
        "/batches",
        "/budgets",
        "/limits",
        "/runs",
        "/costs?by=project",
        "/evidence",
        "/endpoints/new",
    ):
        text = client.get(path).content.decode()
        assert "mallory" in text, path
        assert "alice" not in text, path
        assert alice.endpoint.id not in text, path


def test_who_is_not_signed_in_is_sent_to_sign_in(alice: House) -> None:
    for route in pages():
        answer = Client().get(address(route, alice))
        if answer.status_code != 405:
            assert answer.status_code == 302, route
            assert answer.headers["location"].startswith("/sign-in?next=/"), route
    fragment = Client().get(f"/endpoints/{alice.endpoint.id}/live", headers={"hx-request": "true"})
    assert fragment.headers["hx-refresh"] == "true"
    assert fragment.content == b""


def test_what_needs_a_role_says_so(alice: House) -> None:
    """Bob bills: he sees endpoints and costs, and changes nothing."""
    client = signed_in(alice.billing)
    id = alice.endpoint.id
    text = client.get(f"/endpoints/{id}").content.decode()
    assert "chat" in text
    assert f"/endpoints/{id}/stop" not in text
    assert "Create endpoint" not in client.get("/endpoints").content.decode()
    assert "Create a key" not in client.get("/keys").content.decode()
    key = client.get(f"/keys/{alice.key_id}").content.decode()
    assert "Rotate key" not in key
    assert "Save limits" not in key
    assert "<form" not in client.get("/limits").content.decode().partition("<main")[2]
    aliases = client.get("/aliases").content.decode()
    assert "gpt-4o" in aliases
    assert "Add alias" not in aliases
    assert f"/aliases/{alice.alias.id}" not in aliases
    run = f"/projects/{alice.project.id}/runs/{RUN}"
    assert "Stop run" not in client.get(run).content.decode()
    assert ">Evidence<" not in text
    assert client.get("/costs").status_code == 200
    for answer in (
        client.post(f"/endpoints/{id}/stop"),
        client.get("/endpoints/new"),
        client.post("/keys", {"project": alice.project.id, "name": "x", "scopes": "read"}),
        client.get(f"/keys/{alice.key_id}/revoke"),
        client.post(f"/keys/{alice.key_id}", {"priority": "1"}),
        client.post(f"/keys/{alice.key_id}/rotate", {"overlap_s": "0"}),
        client.post("/limits", {"project": alice.project.id, "form": "project"}),
        client.post("/aliases", {"project": alice.project.id, "name": "x", "targets": "chat"}),
        client.get(f"/aliases/{alice.alias.id}"),
        client.get(f"/aliases/{alice.alias.id}/delete"),
        client.post(f"{run}/stop"),
        client.post(f"{run}/resume"),
        client.get("/evidence"),
    ):
        assert answer.status_code == 403
        assert b"Your role does not allow" in answer.content


@pytest.mark.parametrize("role", [Role.OWNER, Role.ADMIN, Role.AUDITOR])
def test_who_may_export_sees_evidence(alice: House, role: Role) -> None:
    alice.billing.memberships.update(role=role)
    assert signed_in(alice.billing).get("/evidence").status_code == 200


def test_posts_need_their_token(alice: House) -> None:
    client = Client(enforce_csrf_checks=True)
    client.force_login(alice.owner)
    answer = client.post(f"/endpoints/{alice.endpoint.id}/stop")
    assert answer.status_code == 403
    assert b"The form was too old" in answer.content


def test_what_changes_something_is_no_get(alice: House) -> None:
    client = signed_in(alice.owner)
    for path in ("start", "stop"):
        assert client.get(f"/endpoints/{alice.endpoint.id}/{path}").status_code == 405
    for path in ("stop", "resume"):
        assert client.get(f"/projects/{alice.project.id}/runs/{RUN}/{path}").status_code == 405
    assert client.get(f"/keys/{alice.key_id}/rotate").status_code == 302
    assert client.get("/switch").status_code == 405


def test_nothing_private_is_kept_by_caches(alice: House) -> None:
    answer = signed_in(alice.owner).get("/endpoints")
    assert "no-store" in answer.headers["cache-control"]


def test_missing_pages_are_dressed(db: None) -> None:
    answer = Client().get("/nothing")
    assert answer.status_code == 404
    assert b"Nothing is here" in answer.content


def test_a_broken_server_still_says_so(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise RuntimeError("broken on purpose")

    monkeypatch.setattr("django.contrib.auth.views.LoginView.get", broken)
    client.raise_request_exception = False
    answer = client.get("/sign-in")
    assert answer.status_code == 500
    assert b"Something broke on our side" in answer.content
    assert read(answer).inline == []
