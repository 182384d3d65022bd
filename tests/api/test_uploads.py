"""An upload over HTTP, and the bytes as a node fetches them with its signed requests."""

import hashlib
from pathlib import Path
from typing import Any

import msgspec
import pytest
from django.utils import timezone

from compliance.models import AuditEvent
from controlplane.endpoints.models import ModelFacts, UploadFile
from controlplane.endpoints.pulls import PullSpec, pull_model
from controlplane.fleet import wire
from tests.api.door import Door, play
from tests.api.house import House, post, with_key
from tests.endpoints.world import ACTOR
from tests.fleet.machine import Machine, enrolled

CONTENT = b'{"model_type": "x"}'


@pytest.mark.django_db(transaction=True)  # the agents' door looks from threads of its own
def test_what_is_uploaded_reaches_the_node_that_is_to_serve_it(
    alice: House, settings: Any, tmp_path: Path
) -> None:
    settings.UPLOADS_DIR = tmp_path
    client = with_key(alice.secret)
    digest = hashlib.sha256(CONTENT).hexdigest()
    file = {"path": "config.json", "size_bytes": len(CONTENT), "sha256": digest}
    body = {"project": alice.project.id, "name": "mine", "files": [file]}
    made = post(client, "/model-uploads", body)
    assert made.status_code == 201, made.content
    id = made.json()["id"]
    path = f"/api/v1/model-uploads/{id}"

    def put(offset: int, content: bytes) -> Any:
        place = f"{path}/piece?number=0&offset={offset}"
        return client.put(place, data=content, content_type="application/octet-stream")

    assert put(0, CONTENT[:5]).json()["received_bytes"] == 5
    assert put(0, CONTENT).status_code == 409
    assert put(5, CONTENT[5:]).json()["verified"] is True
    assert client.get(path).json()["finished_at"]
    fetched_again(alice, f"{path}/content?number=0", digest)
    _, stranger = enrolled(alice.pool, "n8", now=timezone.now())
    alice.pool.nodes.exclude(id=alice.node.id).update(removed_at=timezone.now())
    node, machine = enrolled(alice.pool, "n9", now=timezone.now())
    pull = pull_model(
        actor=ACTOR,
        project=alice.project,
        pool=alice.pool,
        spec=PullSpec(id, source="upload"),
        now=timezone.now(),
    )
    assert pull.nodes.filter(node=node).exists()

    async def scene(door: Door) -> None:
        request = wire.SourceRequest(pull_id=pull.id)
        answer = await door.call("POST", "/agent/v1/source", request, machine=machine)
        source = msgspec.json.decode(answer.content, type=wire.Source)
        told = wire.SourceFile(path="config.json", size_bytes=len(CONTENT), sha256=digest)
        assert source.files == [told]
        place = f"/agent/v1/uploads/{id}/0"
        whole = await door.call("GET", place, machine=machine)
        assert (whole.status_code, whole.content) == (200, CONTENT)
        headers = machine.headers("GET", place, now=timezone.now()) | {"range": "bytes=5-"}
        rest = await door.http.get(place, headers=headers)
        assert (rest.status_code, rest.content) == (206, CONTENT[5:])
        assert rest.headers["content-range"] == f"bytes 5-{len(CONTENT) - 1}/{len(CONTENT)}"
        for other in (f"/agent/v1/uploads/{id}/1", "/agent/v1/uploads/upl_x/0"):
            assert (await door.call("GET", other, machine=machine)).status_code == 404
        assert (await door.call("GET", place)).status_code == 401
        assert (await door.call("GET", place, machine=stranger)).status_code in (401, 404, 410)
        await _tell_facts(door, machine, pull.id)

    play(scene)
    known = ModelFacts.objects.get()
    assert (known.model, known.project, known.config) == (id, alice.project, {"model_type": "x"})
    assert client.delete(path).status_code == 204
    assert list(tmp_path.iterdir()) == []


async def _tell_facts(door: Door, machine: Machine, pull_id: str) -> None:
    """What the node reads of what it brought it says with a report; perhaps twice."""
    report = wire.Report(
        boot_id="boot",
        seq=1,
        agent_version="1",
        desired_version=1,
        replicas=[],
        models=[wire.ModelFacts(pull_id=pull_id, revision="1", config=CONTENT.decode())],
    )
    for _ in range(2):
        answer = await door.call("POST", "/agent/v1/report", report, machine=machine)
        assert answer.status_code == 200, answer.content


def fetched_again(house: House, taken: str, digest: str) -> None:
    """By its owner, whole and in part; each time is an event."""
    client = with_key(house.secret)
    assert with_key(house.reader).get(taken).status_code == 403
    whole = client.get(taken)
    assert whole.getvalue() == CONTENT and whole.headers["etag"] == f'"{digest}"'
    for asked, expected in (("bytes=5-", CONTENT[5:]), ("bytes=2-3", CONTENT[2:4])):
        rest = client.get(taken, headers={"range": asked, "if-range": f'"{digest}"'})
        assert (rest.status_code, rest.getvalue()) == (206, expected)
        assert rest.headers["content-range"].endswith(f"/{len(CONTENT)}")
    other = client.get(taken, headers={"range": "bytes=5-", "if-range": '"another"'})
    assert (other.status_code, other.getvalue()) == (200, CONTENT)
    assert client.get(taken, headers={"range": "bytes=999-"}).status_code == 416
    assert client.get(taken.replace("=0", "=7")).status_code == 404
    assert AuditEvent.objects.filter(action="upload.download").count() == 5
    UploadFile.objects.update(verified=False)
    assert client.get(taken).status_code == 409
    UploadFile.objects.update(verified=True)
