"""A request for a LoRA adapter goes to a replica that has it loaded, and nowhere else."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway.directory import Replica
from tests.gateway.rig import KEY, Rig

CHAT = "/v1/chat/completions"


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    rig = Rig(tmp_path)
    rig.key()
    try:
        yield rig
    finally:
        rig.stop()


def has(rig: Rig, *loaded: str, failed: str = "") -> None:
    """The replicas of `tiny`, in order: which of its adapters each has loaded."""
    replicas = [
        Replica(
            one.id,
            one.endpoint_id,
            one.address,
            adapters=frozenset(names.split()),
            failed_adapters=frozenset(failed.split()),
        )
        for one, names in zip(rig.replicas("tiny", rig.engines), loaded, strict=True)
    ]
    rig.change("tiny", replicas=tuple(replicas))


def two(rig: Rig) -> None:
    engines = [rig.engine("ep_tiny", adapters=["poet"]) for _ in range(2)]
    rig.endpoint("tiny", engines, adapters=["poet", "other"])


def served(rig: Rig) -> list[int]:
    return [len(engine.seen) for engine in rig.engines]


def test_only_a_replica_that_has_it_is_asked(rig: Rig) -> None:
    two(rig)
    has(rig, "", "poet")
    for _ in range(6):
        assert rig.chat("tiny:poet").status == 200
    assert served(rig) == [0, 6]
    for _ in range(6):
        assert rig.chat("tiny").status == 200
    assert sum(served(rig)) == 12 and served(rig)[0] > 0  # the base model is everywhere


def test_one_that_is_being_loaded_is_worth_coming_back_for(rig: Rig) -> None:
    two(rig)
    has(rig, "poet", "poet", failed="")
    reply = rig.chat("tiny:other")
    assert (reply.status, reply.error["code"]) == (503, "adapter_loading")
    assert reply.headers["retry-after"] == "2"
    has(rig, "poet other", "poet")
    rig.engines[0].adapters = ("poet", "other")
    assert rig.chat("tiny:other").status == 200


def test_the_list_of_models_says_which_is_ready(rig: Rig) -> None:
    two(rig)
    has(rig, "", "poet")
    listed = {one["id"]: one["status"] for one in rig.get("/v1/models").json["data"]}
    assert listed == {"tiny": "ready", "tiny:other": "waiting", "tiny:poet": "ready"}


def test_one_that_could_not_be_loaded_is_not_found(rig: Rig) -> None:
    two(rig)
    has(rig, "", "", failed="poet")
    reply = rig.chat("tiny:poet")
    assert (reply.status, reply.error["code"]) == (404, "adapter_not_loaded")
    assert rig.chat("tiny").status == 200


def test_who_waits_for_a_sleeping_endpoint_gets_the_adapter(rig: Rig) -> None:
    two(rig)
    replicas = rig.endpoints["tiny"].replicas
    rig.change("tiny", replicas=())
    with rig.connect() as connection:
        connection.post(CHAT, {"model": "tiny:poet", "messages": []}, key=KEY)
        rig.until(lambda: rig.server.context.admission.waiting == 1)
        rig.change("tiny", replicas=replicas)
        assert connection.response().status == 200


def test_who_waited_for_one_that_did_not_come_is_told(rig: Rig) -> None:
    two(rig)
    rig.change("tiny", replicas=())
    with rig.connect() as connection:
        connection.post(CHAT, {"model": "tiny:poet", "messages": []}, key=KEY)
        rig.until(lambda: rig.server.context.admission.waiting == 1)
        has(rig, "", "", failed="poet")
        assert connection.response().error["code"] == "adapter_not_loaded"


def test_a_retry_goes_to_another_that_has_it(rig: Rig) -> None:
    two(rig)
    rig.engine("ep_tiny")  # it never loaded it
    has(rig, "poet", "poet", "")
    rig.run(rig.engines[0].stop())
    for _ in range(4):
        assert rig.chat("tiny:poet").status == 200
    rig.run(rig.engines[1].stop())
    reply = rig.chat("tiny:poet")
    assert (reply.status, reply.error["code"]) == (503, "engine_unavailable")
    assert served(rig)[2] == 0


@pytest.mark.parametrize("path", ["/v1/load_lora_adapter", "/v1/unload_lora_adapter", "/adapters"])
def test_no_tenant_reaches_what_loads_adapters(rig: Rig, path: str) -> None:
    two(rig)
    reply = rig.post(path, {"lora_name": "x", "lora_path": "/etc", "model": "tiny"})
    assert (reply.status, reply.error["code"]) == (404, "unknown_url")
    below = rig.post(f"/tiny{path}", {"lora_name": "x", "lora_path": "/etc", "model": "tiny"})
    assert below.status == 404
    assert served(rig) == [0, 0]
