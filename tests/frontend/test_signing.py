"""Signing in and out, and where one is then."""

from django.test import Client

from compliance import audit
from controlplane.tenancy import services
from tests.api import house
from tests.api.house import House, signed_in


def test_signing_in_leads_to_the_endpoints_of_the_first_place(alice: House) -> None:
    client = Client()
    body = {"username": "Owner@Alice.example", "password": house.PASSWORD}
    answer = client.post("/sign-in", body, follow=True)
    assert answer.redirect_chain[-1][0] == "/endpoints"
    text = answer.content.decode()
    assert "alice / default" in text
    assert "chat" in text


def test_a_wrong_password_is_told_clearly_and_keeps_the_address(alice: House) -> None:
    answer = Client().post("/sign-in", {"username": alice.owner.email, "password": "wrong"})
    text = answer.content.decode()
    assert "do not go together" in text
    assert f'value="{alice.owner.email}"' in text
    assert "wrong" not in text.replace('class="field wrong"', "")
    unknown = Client().post("/sign-in", {"username": "no@body.example", "password": "wrong"})
    assert "do not go together" in unknown.content.decode()


def test_signing_in_leads_nowhere_else(alice: House) -> None:
    body = {
        "username": alice.owner.email,
        "password": house.PASSWORD,
        "next": "https://elsewhere.example/",
    }
    answer = Client().post("/sign-in", body)
    assert answer.headers["location"] == "/endpoints"
    body["next"] = "/costs"
    assert Client().post("/sign-in", body).headers["location"] == "/costs"


def test_signing_out_ends_the_session(alice: House) -> None:
    client = signed_in(alice.owner)
    assert client.post("/sign-out").headers["location"] == "/sign-in"
    assert client.get("/endpoints").status_code == 302


def test_the_place_is_remembered(alice: House) -> None:
    second = services.create_project(
        actor=audit.SYSTEM, organization=alice.organization, name="second", now=house.NOW
    )
    client = signed_in(alice.owner)
    assert b"chat</a>" in client.get("/endpoints").content
    client.post("/switch", {"place": second.id})
    assert b"No endpoint in second yet" in client.get("/endpoints").content
    # What is opened by its address is in its own project, and so is what follows.
    client.get(f"/endpoints/{alice.endpoint.id}")
    assert b"chat</a>" in client.get("/endpoints").content


def test_a_place_that_one_lost_is_left(alice: House, mallory: House) -> None:
    member = services.add_member(
        actor=audit.SYSTEM,
        organization=alice.organization,
        user=mallory.owner,
        role="developer",
        now=house.NOW,
    )
    client = signed_in(mallory.owner)
    client.post("/switch", {"place": alice.project.id})
    assert "alice" in client.get("/keys").content.decode()
    services.remove_member(actor=audit.SYSTEM, membership=member, now=house.NOW)
    text = client.get("/keys").content.decode()
    assert "alice" not in text
    assert "mallory" in text


def test_an_organization_without_a_project_can_be_chosen(alice: House) -> None:
    empty = services.create_organization(
        actor=audit.SYSTEM, name="Bare", region_code="eu-de-1", owner=alice.owner, now=house.NOW
    )
    client = signed_in(alice.owner)
    client.post("/switch", {"place": empty.id})
    assert b"Bare has no project" in client.get("/endpoints").content
    assert client.get("/costs").status_code == 200
    assert client.get("/endpoints/new").status_code == 404


def test_people_without_an_organization_are_told_what_to_do(db: None) -> None:
    text = signed_in(house.user("new@nobody.example")).get("/endpoints").content.decode()
    assert "not a member of any organization" in text
