"""Where a replica stands, where one would go, and each other node's reason."""

from datetime import timedelta

from django.test import Client
from django.utils import timezone

from controlplane.endpoints import placing
from controlplane.endpoints.models import Replica
from controlplane.endpoints.states import Reason, State
from controlplane.fleet.models import Device, Node, Pool
from controlplane.placement.choose import Placement
from tests.api.house import House, signed_in


def node(pool: Pool, name: str, devices: int) -> Node:
    now = timezone.now()
    made = Node.objects.create(
        pool=pool,
        name=name,
        certificate_sha256=name.ljust(64, "0"),
        certificate_expires_at=now,
        lease_until=now + timedelta(hours=1),
        created_at=now,
    )
    Device.objects.bulk_create(
        Device(node=made, index=index, kind="cpu", name="CPU", memory_bytes=1 << 30)
        for index in range(devices)
    )
    return made


def waiting(house: House) -> Replica:
    now = timezone.now()
    return Replica.objects.create(
        endpoint=house.endpoint,
        generation=house.endpoint.generation,
        reason=Reason.SCALE_UP,
        state_at=now,
        created_at=now,
    )


def test_every_node_that_was_not_taken_has_its_reason(alice: House) -> None:
    Node.objects.filter(pool=alice.pool).update(cordoned_at=timezone.now())
    reader = signed_in(alice.owner)
    there, _ = node(alice.pool, "there", 1), node(alice.pool, "wider", 4)
    replica = waiting(alice)
    path = f"/api/v1/replicas/{replica.id}/placement"
    asked = reader.get(path).json()
    assert (asked["object"], asked["nodes"], asked["devices"]) == ("placement", [there.id], [])
    assert isinstance(placing.place(replica.id, now=timezone.now()), Placement)
    placed = reader.get(path).json()
    (device,) = placed["devices"]
    assert (placed["nodes"], device["node"], device["index"]) == ([there.id], there.id, 0)
    others = set(
        Node.objects.filter(pool=alice.pool).exclude(id=there.id).values_list("id", flat=True)
    )
    said = {one["node"]: one["reason"] for one in placed["rejected"]}
    assert said.keys() == others == {one["node"] for one in asked["rejected"]}
    assert said[alice.node.id].endswith(": it is cordoned")
    assert any("of a device in fragments" in why for why in said.values())


def test_one_that_waits_says_why_no_node_takes_it(alice: House) -> None:
    Node.objects.filter(pool=alice.pool).update(cordoned_at=timezone.now())
    reader = signed_in(alice.owner)
    answer = reader.get(f"/api/v1/replicas/{waiting(alice).id}/placement").json()
    assert (answer["nodes"], answer["devices"]) == ([], [])
    nodes = Node.objects.filter(pool=alice.pool)
    assert {one["node"] for one in answer["rejected"]} == set(nodes.values_list("id", flat=True))
    assert Replica.objects.filter(endpoint=alice.endpoint, state=State.REQUESTED).exists()


def test_an_operator_says_what_block_a_pool_keeps(alice: House, operator: Client) -> None:
    path = f"/api/v1/pools/{alice.pool.id}"
    for size, code in ((8, 200), (3, 422), (-1, 422), (0, 200)):
        answer = operator.patch(path, {"keep_block": size}, content_type="application/json")
        assert answer.status_code == code, answer.content
        assert code == 422 or answer.json()["keep_block"] == size


def test_an_operator_opens_a_pool_for_shares_and_an_endpoint_asks_for_one(
    alice: House, operator: Client
) -> None:
    pool, owner = f"/api/v1/pools/{alice.pool.id}", signed_in(alice.owner)
    wish: dict[str, object]
    wish = {"project": alice.project.id, "name": "part", "model": "org/m", "device_kind": "cpu"}
    wish |= {"pool": alice.pool.id, "device_share": 400}
    closed = owner.post("/api/v1/endpoints", wish, content_type="application/json")
    assert closed.status_code == 422
    assert (closed.json()["code"], closed.json()["field"]) == (
        "pool_shares_no_devices",
        "device_share",
    )
    assert owner.patch(pool, {"share_devices": True}, "application/json").status_code == 404
    opened = operator.patch(pool, {"share_devices": True}, content_type="application/json")
    assert opened.json()["share_devices"] is True and opened.json()["keep_block"] == 0
    made = owner.post("/api/v1/endpoints", wish, content_type="application/json")
    assert made.status_code == 201 and made.json()["device_share"] == 400
    path = f"/api/v1/endpoints/{made.json()['id']}"
    change = {"device_share": 700}
    changed = owner.post(f"{path}/versions", change, content_type="application/json")
    assert changed.status_code == 201, changed.content
    assert owner.get(path).json()["device_share"] == 700
