"""An endpoint's versions on their page: changed, compared, taken back."""

from controlplane.endpoints import rollout_rows
from tests.api.house import House, signed_in


def test_a_change_is_rolled_out_and_taken_back(alice: House) -> None:
    client = signed_in(alice.owner)
    path = f"/endpoints/{alice.endpoint.id}/versions"
    wish = {
        "model": alice.endpoint.model,
        "revision": "",
        "device_count": "1",
        "engine_args": '{"max_num_seqs": 8}',
        "note": "fewer at once",
        "strategy": "canary",
        "share": "25",
    }
    wrong = client.post(path, {**wish, "engine_args": '{"max_num_seqs": 0}'})
    assert wrong.status_code == 422
    assert "max_num_seqs" in wrong.content.decode()
    assert client.post(path, {**wish, "share": "250"}).status_code == 422
    assert client.post(path, wish).status_code == 302
    shown = client.get(path).content.decode()
    assert "fewer at once" in shown
    assert "engine_args.max_num_seqs" in shown
    assert "25.0 % of traffic" in shown
    client.post(f"/endpoints/{alice.endpoint.id}/rollout/promote")
    assert "has been ready yet" in client.get(path).content.decode()
    client.post(f"/endpoints/{alice.endpoint.id}/rollout/rollback", {"version": "1"})
    newest = rollout_rows.newest(alice.endpoint)
    assert newest is not None
    assert (newest.state, newest.reason) == ("aborted", "rolled_back")
    assert "Promote" not in client.get(path).content.decode()


def test_a_strangers_versions_do_not_exist(alice: House, mallory: House) -> None:
    path = f"/endpoints/{alice.endpoint.id}"
    client = signed_in(mallory.owner)
    assert client.get(f"{path}/versions").status_code == 404
    assert client.post(f"{path}/rollout/abort").status_code == 404
