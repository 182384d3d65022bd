"""Lines of batches at a gateway: who may send them, and that everybody else goes first."""

import hmac
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from billing import passes
from gateway.demand import Demand
from gateway.directory import RateLimits
from tests.gateway.rig import KEY, OTHER_KEY, PEPPER, PROJECT, Rig
from tests.gateway.wire import Response

CHAT = "/v1/chat/completions"
KEY_ID = "key_abcdefgh"


@pytest.fixture
def rig() -> Iterator[Rig]:
    with tempfile.TemporaryDirectory(prefix="gw-") as folder:
        made = Rig(Path(folder), house_url="http://127.0.0.1:1")
        made.key()
        yield made
        made.stop()


def shown(request: str = "brq_1-1", *, now: float = 0.0, **changes: Any) -> str:
    claims = {
        "key": KEY_ID,
        "hash": hmac.digest(PEPPER, KEY.encode(), "sha256").hex(),
        "batch": "bat_1",
        "request": request,
        "paid": False,
        **changes,
    }
    secret = passes.key(PEPPER, passes.TO_GATEWAY)
    return f"stoa-batch-{passes.issue(secret, claims, now=now or time.time())}"


def send(rig: Rig, credential: str, user: str = "", **fields: Any) -> Response:
    messages = [{"role": "user", "content": "hello"}]
    body = {"model": "tiny", "messages": messages, "user": user, **fields}
    return rig.post(CHAT, body, key=credential)


def narrow(rig: Rig, sequences: int, kv_tokens: int | None = None) -> None:
    """`tiny`, on one engine that runs so many sequences."""
    engine = rig.engine("ep_tiny")
    rig.endpoint("tiny", [engine])
    (replica,) = rig.endpoints["tiny"].replicas
    fields = {name: getattr(replica, name) for name in replica.__struct_fields__}
    fields |= {"max_num_seqs": sequences, "kv_tokens": kv_tokens}
    rig.change("tiny", replicas=(type(replica)(**fields),))


def test_a_line_is_served_in_the_name_of_its_key(rig: Rig) -> None:
    narrow(rig, 4)
    assert send(rig, shown("brq_9-3"), "tokens=3").status == 200
    (record,) = rig.closed()
    assert (record.request_id, record.key_id, record.project_id) == ("brq_9-3", KEY_ID, PROJECT)
    assert (record.output_tokens, record.finish) == (3, "complete")


def test_what_is_no_pass_for_this_key_now_is_refused(rig: Rig) -> None:
    narrow(rig, 4)
    good = shown()
    theirs = hmac.digest(PEPPER, OTHER_KEY.encode(), "sha256").hex()
    house = passes.issue(passes.key(PEPPER, passes.TO_HOUSE), {"key": KEY_ID}, now=time.time())
    wrong = [
        *(good[:-1] + ("A" if good[-1] != "A" else "B"), good[:60], "stoa-batch-", "stoa-batch-é"),
        *(shown(now=time.time() - passes.LIFE_S - 1), shown(hash=theirs), shown(key="key_other")),
        f"stoa-batch-{house}",
    ]
    for credential in wrong:
        answer = send(rig, credential)
        assert (answer.status, answer.json["error"]["code"]) == (401, "invalid_api_key")
    rig.keys.clear()  # revoked
    rig.publish()
    assert send(rig, shown()).status == 401
    assert not rig.spool.opened


def test_scope_and_models_of_the_key_hold(rig: Rig) -> None:
    narrow(rig, 4)
    rig.key(models=frozenset({"other"}))
    assert send(rig, shown()).status == 404
    rig.key(scopes=frozenset({"read"}))
    assert send(rig, shown()).status == 403
    rig.key(networks=("192.0.2.0/24",))  # it counted where the batch was made
    assert send(rig, shown()).status == 200


def test_without_batches_no_pass_is_good(tiny: Rig) -> None:
    assert send(tiny, shown()).status == 401
    assert tiny.get("/v1/files").status == 501


def test_the_house_away_is_503_and_the_key_is_looked_at_first(rig: Rig) -> None:
    assert rig.get("/v1/batches", key="sk-nobody").status == 401
    answer = rig.get("/v1/batches")
    assert (answer.status, answer.json["error"]["code"]) == (503, "batches_unavailable")
    answer = rig.post("/v1/files", b"x" * 3_000_000)
    assert answer.status == 503
    for path in ("/v1/files/../../api/v1/projects", "/v1/files/%2e%2e", "/v1/filesystem"):
        assert rig.post(path, b"").status == 404


def test_lines_leave_a_share_free_and_pay_nothing_for_being_refused(rig: Rig) -> None:
    narrow(rig, 4)
    rig.key(rate_limits=RateLimits(requests_per_minute=4))
    with ThreadPoolExecutor(4) as pool:
        running = [pool.submit(send, rig, shown(f"brq_{n}-1"), "gate=1") for n in range(3)]
        rig.until(lambda: rig.engines[0].at_once == 3)
        for n in range(10):
            answer = send(rig, shown(f"brq_x{n}-1"))
            assert (answer.status, answer.json["error"]["code"]) == (503, "no_spare_capacity")
        assert rig.chat("tiny").status == 200  # the fourth of its limit, and the fourth place
        rig.run(_open(rig))
        assert [one.result().status for one in running] == [200] * 3
    assert rig.activity.balance("waiting") == 0


def test_tokens_count_as_well(rig: Rig) -> None:
    narrow(rig, 100, kv_tokens=2000)
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(send, rig, shown(), "gate=1", max_tokens=1000)
        rig.until(lambda: rig.engines[0].at_once == 1)
        assert send(rig, shown("brq_2-1"), max_tokens=1000).status == 503
        rig.run(_open(rig))
        assert first.result().status == 200


def test_who_waits_has_the_newest_line_cut_off(rig: Rig) -> None:
    narrow(rig, 2)
    rig.server.context.spare._share = 1.0
    with ThreadPoolExecutor(4) as pool:
        lines: list[Future[Response]] = []
        for n in range(2):
            lines.append(pool.submit(send, rig, shown(f"brq_{n}-1"), "gate=1"))
            rig.until(lambda n=n: rig.engines[0].at_once == n + 1)  # type: ignore[misc]
        began = time.monotonic()
        assert rig.chat("tiny").status == 200
        waited_s = time.monotonic() - began
        cut = lines[1].result()
        assert (cut.status, cut.json["error"]["code"]) == (503, "preempted")
        assert waited_s < 2.0
        rig.run(_open(rig))
        assert lines[0].result().status == 200
    records = {record.request_id: record for record in rig.closed(3)}
    assert records["brq_1-1"].finish == "preempted"
    assert (records["brq_1-1"].input_tokens, records["brq_1-1"].output_tokens) == (0, 0)
    assert records["brq_0-1"].finish == "complete"
    assert rig.server.context.spare.load("ep_tiny") == (0, 0)


def test_for_autoscaling_all_lines_are_one_request(rig: Rig) -> None:
    narrow(rig, 8, kv_tokens=100_000)

    async def demand() -> Demand:
        assert rig.activity.demands is not None
        return rig.activity.demands.of("ep_tiny")

    with ThreadPoolExecutor(8) as pool:
        running = [pool.submit(send, rig, shown(f"brq_{n}-1"), "gate=1") for n in range(5)]
        rig.until(lambda: rig.engines[0].at_once == 5)
        assert rig.run(demand()) == Demand(0, 0, 1, False, None)
        running += [pool.submit(rig.chat, "tiny", user="gate=1") for _ in range(2)]
        rig.until(lambda: rig.engines[0].at_once == 7)
        found = rig.run(demand())
        assert (found.running, found.pressed) == (2, False)
        assert found.kv_tokens > 0
        rig.run(_open(rig))
        assert {one.result().status for one in running} == {200}
    assert rig.run(demand()).running == 0
    told = Counter(rig.activity.events)
    assert (told["ep_tiny", "line", 1], told["ep_tiny", "line", -1]) == (5, 5)
    assert (told["ep_tiny", "running", 1], told["ep_tiny", "running", -1]) == (2, 2)


def test_a_line_wakes_nobody_and_waits_for_nobody(rig: Rig) -> None:
    rig.endpoint("tiny")
    answer = send(rig, shown())
    assert (answer.status, answer.json["error"]["code"]) == (503, "endpoint_starting")
    assert rig.activity.events == []


def test_what_was_paid_for_is_answered_again_for_nothing(rig: Rig) -> None:
    narrow(rig, 4)
    rig.key(rate_limits=RateLimits(requests_per_minute=1))
    assert send(rig, shown()).status == 200
    assert send(rig, shown("brq_2-1")).status == 429
    assert send(rig, shown(paid=True)).status == 200
    first, again = rig.closed(2)
    assert first.request_id == again.request_id == "brq_1-1"  # PostgreSQL keeps one of them
    assert (again.nano_eur, again.charges) == (0, ())


async def _open(rig: Rig) -> None:
    rig.engines[0].gate.set()
