"""LoRA adapters on their page: loaded, seen as they are, unloaded."""

from controlplane.endpoints.models import Endpoint, Replica
from tests.api.house import House, signed_in


def test_an_adapter_is_loaded_seen_and_unloaded(alice: House) -> None:
    client = signed_in(alice.owner)
    page = f"/endpoints/{alice.endpoint.id}/adapters"
    empty = client.get(page).content.decode()
    assert "No adapter." in empty
    assert "its replicas are replaced, once" in empty  # it has no room yet
    wish = {"name": "my-poet", "path": "org/poet", "revision": "v1"}
    assert client.post(page, wish).headers["location"] == page
    (kept,) = Endpoint.objects.get(id=alice.endpoint.id).adapters
    assert {name: kept[name] for name in wish} == wish

    Replica.objects.filter(id=alice.replica.id).update(
        adapters={
            kept["id"]: {
                "state": "failed",
                "reason": "adapter_rank_too_high",
                "detail": "its rank is 64, the endpoint's max_lora_rank is 16",
            }
        }
    )
    shown = client.get(page).content.decode()
    assert "<code>chat:my-poet</code>" in shown
    assert "adapter_rank_too_high" in shown
    assert "Set the engine arg `max_lora_rank`" in shown
    assert "my-poet" in client.get(f"/endpoints/{alice.endpoint.id}").content.decode()

    gone = client.post(f"{page}/unload", {"name": "my-poet"}, follow=True).content.decode()
    assert "my-poet is unloaded." in gone
    assert Endpoint.objects.get(id=alice.endpoint.id).adapters == []
    again = client.post(f"{page}/unload", {"name": "my-poet"}, follow=True).content.decode()
    assert "It was unloaded already." in again


def test_what_is_refused_says_why(alice: House) -> None:
    client = signed_in(alice.owner)
    page = f"/endpoints/{alice.endpoint.id}/adapters"
    for wrong, field in (
        ({"name": "", "path": "org/poet"}, "name"),
        ({"name": "a:b", "path": "org/poet"}, "path"),
        ({"name": "poet", "path": "../poet"}, "path"),
    ):
        answer = client.post(page, wrong)
        assert answer.status_code == 422, wrong
        assert f'id="id_{field}_error"' in answer.content.decode(), wrong
    assert Endpoint.objects.get(id=alice.endpoint.id).adapters == []


def test_nobody_elses(alice: House, mallory: House) -> None:
    client = signed_in(mallory.owner)
    page = f"/endpoints/{alice.endpoint.id}/adapters"
    assert client.get(page).status_code == 404
    assert client.post(page, {"name": "x", "path": "org/x"}).status_code == 404
    assert client.post(f"{page}/unload", {"name": "x"}).status_code == 404
