"""LoRA adapters over HTTP: loaded, listed and unloaded by name."""

from tests.api.house import House, post, with_key


def test_load_list_unload(alice: House) -> None:
    client = with_key(alice.secret)
    place = f"/endpoints/{alice.endpoint.id}/adapters"
    asked = {"name": "poet", "path": "org/poet", "revision": "v1"}
    loaded = post(client, place, asked)
    assert loaded.status_code == 201, loaded.content
    shown = loaded.json()
    assert {name: shown[name] for name in asked} == asked
    assert shown["status"] in ("waiting", "loading")
    assert client.get(f"/api/v1{place}").json()["data"] == [shown]
    assert client.get(f"/api/v1{place}/poet").json() == shown
    endpoint = client.get(f"/api/v1/endpoints/{alice.endpoint.id}").json()
    assert endpoint["adapters"] == [shown]
    assert any(one["type"] == "AdaptersLoaded" for one in endpoint["conditions"])
    assert client.delete(f"/api/v1{place}/poet").status_code == 204
    assert client.get(f"/api/v1{place}").json()["data"] == []
    gone = client.delete(f"/api/v1{place}/poet")
    assert (gone.status_code, gone.json()["code"]) == (404, "not_found")


def test_what_is_refused_names_its_field(alice: House) -> None:
    client = with_key(alice.secret)
    place = f"/endpoints/{alice.endpoint.id}/adapters"
    for asked, field in (
        ({"name": "a:b", "path": "org/poet"}, "adapters"),
        ({"name": "poet", "path": "../poet"}, "adapters"),
        ({"name": "poet"}, "path"),
        ({"name": "poet", "path": "org/poet", "revision": ".."}, "revision"),
    ):
        answer = post(client, place, asked)
        problem = answer.json()
        assert answer.status_code == 422, problem
        assert (problem.get("field") or problem["errors"][0]["field"]) == field
