"""What the API tells of starts: the one under way, and figures by tier."""

from datetime import UTC, datetime, timedelta

from controlplane.endpoints.models import Endpoint, Replica, Start, Transition
from controlplane.endpoints.states import Reason, State
from tests.api.house import House, post, with_key
from tests.api.test_endpoints import body


def started(house: House) -> Endpoint:
    made = post(with_key(house.secret), "/endpoints", body(house, name="started")).json()
    return Endpoint.objects.get(id=made["id"])


def coming(endpoint: Endpoint, ago_s: float, **facts: object) -> Replica:
    at = datetime.now(UTC) - timedelta(seconds=ago_s)
    replica = Replica.objects.create(
        endpoint=endpoint,
        generation=1,
        state=State.FETCHING,
        reason=Reason.NODE_REPORT,
        state_at=at,
        created_at=at,
        **facts,
    )
    Transition.objects.create(
        replica=replica, to_state=State.REQUESTED, reason=Reason.SCALE_UP, at=at
    )
    return replica


def start(replica: Replica, tier: str, total_s: float, *, missed: bool = False) -> None:
    now = datetime.now(UTC)
    Start.objects.create(
        endpoint=replica.endpoint, replica=replica, tier=tier, ready=True, reason="probe_passed",
        asked_at=now, ended_at=now, total_s=total_s, phases={"loaded": total_s}, missed=missed,
        target_s=18.0,
    )  # fmt: skip


def test_a_start_is_followed_against_its_target(alice: House) -> None:
    endpoint = started(alice)
    path = f"/api/v1/endpoints/{endpoint.id}/starts"
    client = with_key(alice.secret)
    empty = client.get(path).json()
    assert (empty["underway"], empty["tiers"], empty["newest"]) == (None, [], [])
    replica = coming(endpoint, 5.0)
    start(replica, "standby", 1.5)
    start(replica, "warm", 19.0, missed=True)
    shown = client.get(path).json()
    going = shown["underway"]
    assert (going["replica"], going["state"], going["target_s"]) == (replica.id, "fetching", 18.0)
    assert 5.0 <= going["elapsed_s"] < 60.0
    standby, warm = shown["tiers"]
    assert (standby["tier"], standby["p50_s"], standby["missed"]) == ("standby", 1.5, 0)
    assert (warm["tier"], warm["p95_s"], warm["missed"], warm["target_s"]) == (
        "warm",
        19.0,
        1,
        18.0,
    )
    assert standby["phases"]["loaded"] == {"p50_s": 1.5, "p95_s": 1.5}
    assert [one["tier"] for one in shown["newest"]] == ["warm", "standby"]
    # What has to be fetched is promised no time.
    Replica.objects.filter(id=replica.id).update(bytes_total=10, bytes_done=3)
    fetching = client.get(path).json()["underway"]
    assert (fetching["target_s"], fetching["bytes_done"], fetching["bytes_total"]) == (None, 3, 10)


def test_starts_are_their_owners_to_see(alice: House, mallory: House) -> None:
    endpoint = started(alice)
    assert (
        with_key(mallory.secret).get(f"/api/v1/endpoints/{endpoint.id}/starts").status_code == 404
    )
