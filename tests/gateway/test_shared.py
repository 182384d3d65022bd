"""Shared endpoints: the operator's, called by every organization of the region."""

from collections.abc import Iterator

import msgspec
import pytest

from gateway import operations, request, sizes
from gateway.budgets import NO_RUN, Budget
from gateway.directory import Directory
from tests.gateway.rig import KEY, ORGANIZATION, OTHER_KEY, PEPPER, Rig
from tests.gateway.wire import Response

CHAT = "/v1/chat/completions"
THEIRS = "prj_theirs"


@pytest.fixture
def both(rig: Rig) -> Iterator[Rig]:
    """Endpoint `tiny` of ours, which is shared, and somebody else's key."""
    rig.key(OTHER_KEY, project_id=THEIRS, organization_id="org_theirs")
    rig.endpoint("tiny", [rig.engine("ep_tiny", adapters=["poet"])], adapters=["poet"])
    rig.change("tiny", shared=True)
    yield rig


def ask(rig: Rig, model: str, key: str = OTHER_KEY, path: str = CHAT) -> Response:
    return rig.post(path, {"model": model, "messages": []}, key=key)


def test_others_call_it_by_name_by_id_and_by_its_url(both: Rig) -> None:
    for model in ("tiny", "ep_tiny", "tiny:poet"):
        reply = ask(both, model)
        assert reply.status == 200, reply.body
        assert reply.json["model"] == model
    assert ask(both, "tiny", path="/e/tiny/v1/chat/completions").status == 200
    assert {record.project_id for record in both.closed(4)} == {THEIRS}
    listed = both.get("/v1/models", key=OTHER_KEY).json["data"]
    assert {"tiny", "tiny:poet"} <= {model["id"] for model in listed}


def test_their_prefixes_stay_apart(both: Rig) -> None:
    ask(both, "tiny", KEY)
    ask(both, "tiny", OTHER_KEY)
    salts = [seen.body["cache_salt"] for seen in both.engines[0].seen]
    assert len(set(salts)) == 2


def test_what_is_not_shared_is_not_there(both: Rig) -> None:
    both.change("tiny", shared=False)
    assert ask(both, "tiny").status == ask(both, "ep_tiny").status == 404
    assert both.get("/v1/models", key=OTHER_KEY).json["data"] == []


def test_a_projects_own_name_comes_first(both: Rig) -> None:
    engine = both.engine("ep_own")
    both.endpoint("own", [engine], project_id=THEIRS)
    own = both.endpoints.pop("own")
    both.endpoints["own"] = msgspec.structs.replace(own, name="tiny")
    both.publish()
    assert ask(both, "tiny").headers["x-stoa-replica"].startswith("rep_own")
    assert ask(both, "ep_tiny").headers["x-stoa-replica"].startswith("rep_tiny")
    listed = [model["id"] for model in both.get("/v1/models", key=OTHER_KEY).json["data"]]
    assert listed.count("tiny") == 1


def test_money_counts_for_who_pays_by_the_token(both: Rig) -> None:
    """To whom it belongs its seconds are charged: their euro budget does not count its tokens."""
    known = both.keeper.current
    subject = ("nano_eur", 10**9, "total", "UTC", True)
    budgets = [
        Budget("bud_ours", "organization", ORGANIZATION, *subject),
        Budget("bud_theirs", "project", THEIRS, *subject),
    ]
    directory = Directory(
        PEPPER, known.keys, known.every_endpoint(), budgets=budgets, generation=9, read_at=1.0
    )
    endpoint = directory.endpoint(THEIRS, "tiny")
    assert endpoint is not None
    call = request.read(b'{"model":"tiny","messages":[]}', operations.CHAT)
    counted = {}
    for secret in (KEY, OTHER_KEY):
        key = directory.key(secret.encode())
        assert key is not None
        ask = both.gate.ask(directory, key, endpoint, NO_RUN, call, sizes.measure(call))
        counted[secret] = [line.budget.id for line in ask.lines]
    assert counted == {KEY: [], OTHER_KEY: ["bud_theirs"]}
