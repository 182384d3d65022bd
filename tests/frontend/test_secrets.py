"""Secrets in the console: given, given anew, deleted, and never in a page."""

from controlplane.tenancy import project_secrets
from controlplane.tenancy.models import ProjectSecret
from tests.api.house import House, signed_in

TOKEN = "hf_canary_789"


def value_of(name: str) -> dict[str, str]:
    found = ProjectSecret.objects.select_related("project").get(name=name)
    return project_secrets.unsealed(found)


def test_a_secret_is_kept_and_not_shown(alice: House) -> None:
    client = signed_in(alice.owner)
    form = {"project": alice.project.id, "kind": "hub", "name": "default", "value": TOKEN}
    assert client.post("/secrets", form).status_code == 302
    page = client.get("/secrets").content.decode()
    assert "<code>default</code>" in page
    assert TOKEN not in page
    assert value_of("default") == {"token": TOKEN}
    assert client.post("/secrets", {**form, "value": "hf_newer"}).status_code == 302
    assert value_of("default") == {"token": "hf_newer"}
    id = ProjectSecret.objects.get().id
    assert "Delete default?" in client.get(f"/secrets/{id}/delete").content.decode()
    assert client.post(f"/secrets/{id}/delete").status_code == 302
    assert not ProjectSecret.objects.exists()


def test_a_bad_one_is_not_repeated_into_the_page(alice: House) -> None:
    client = signed_in(alice.owner)
    form = {"project": alice.project.id, "kind": "registry", "name": "r"}
    answer = client.post("/secrets", {**form, "value": f"host=r.example password={TOKEN}"})
    assert answer.status_code == 422
    text = answer.content.decode()
    assert "has a username of" in text
    assert TOKEN not in text
    good = f"host=r.example username=u password={TOKEN}"
    assert client.post("/secrets", {**form, "value": good}).status_code == 302
    assert value_of("r") == {"host": "r.example", "username": "u", "password": TOKEN}


def test_who_only_looks_sees_names(alice: House) -> None:
    client = signed_in(alice.billing)
    assert "Give a secret" not in client.get("/secrets").content.decode()
    form = {"project": alice.project.id, "kind": "hub", "name": "x", "value": TOKEN}
    assert client.post("/secrets", form).status_code == 403
