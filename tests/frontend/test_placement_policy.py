"""What a pool keeps free, as an operator sets it in the console."""

from django.test import Client

from compliance.models import AuditEvent
from controlplane.fleet.models import Pool
from tests.api.house import House, signed_in


def test_a_block_is_kept_and_given_back(alice: House, operator: Client) -> None:
    path = f"/pools/{alice.pool.id}/placement"
    assert path in operator.get("/nodes").content.decode()
    for size, events in ((8, 1), (8, 1), (0, 2)):
        assert operator.post(path, {"keep_block": str(size)}, follow=True).status_code == 200
        assert Pool.objects.get(pk=alice.pool.id).keep_block == size
        assert AuditEvent.objects.filter(action="pool.update").count() == events
        chosen = f'<option value="{size}" selected>'
        assert chosen in operator.get(path).content.decode()
    wrong = operator.post(path, {"keep_block": "3"})
    assert wrong.status_code == 422 and Pool.objects.get(pk=alice.pool.id).keep_block == 0


def test_devices_are_shared_where_the_policy_says_so(alice: House, operator: Client) -> None:
    path = f"/pools/{alice.pool.id}/placement"
    for said, shared in (({"share_devices": "on"}, True), ({}, False)):
        assert operator.post(path, {"keep_block": "0"} | said, follow=True).status_code == 200
        assert Pool.objects.get(pk=alice.pool.id).share_devices is shared


def test_it_is_the_operators(alice: House) -> None:
    path = f"/pools/{alice.pool.id}/placement"
    answer = signed_in(alice.owner).post(path, {"keep_block": "8"})
    assert answer.status_code == 404 and Pool.objects.get(pk=alice.pool.id).keep_block == 0
