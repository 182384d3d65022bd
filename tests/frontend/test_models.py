"""Uploads and pulls in the console: how far each is, what to do about it, and nobody else's."""

import hashlib
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from django.utils import timezone

from compliance import audit
from controlplane.endpoints import pulls, uploads
from controlplane.endpoints.models import Endpoint, Pull, PullNode, Upload
from controlplane.fleet import wire
from controlplane.fleet.models import Node, Pool
from controlplane.fleet.wire import PullState
from controlplane.tenancy.models import User
from tests.api.house import House, signed_in
from tests.frontend.test_endpoints import WISH

CONFIG, WEIGHTS = b"{}", b"w" * 3000


@pytest.fixture(autouse=True)
def folder(settings: Any, tmp_path: Path) -> Path:
    settings.UPLOADS_DIR = tmp_path
    return tmp_path


def text(answer: Any) -> str:
    return str(answer.content.decode())


def begun(house: House, name: str = "mine") -> Upload:
    contents = {"config.json": CONFIG, "model.safetensors": WEIGHTS}
    files = [
        {"path": path, "size_bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
        for path, data in contents.items()
    ]
    return uploads.begin_upload(
        actor=audit.SYSTEM, project=house.project, name=name, files=files, now=timezone.now()
    )


def send(upload: Upload, number: int, content: bytes) -> None:
    uploads.take_piece(
        actor=audit.SYSTEM, upload=upload, number=number, offset=0, body=BytesIO(content),
        now=timezone.now(),
    )  # fmt: skip


def whole(house: House, name: str = "mine") -> Upload:
    upload = begun(house, name)
    send(upload, 0, CONFIG)
    send(upload, 1, WEIGHTS)
    return upload


def asked(house: House, model: str = "org/model", **more: str) -> Pull:
    return pulls.pull_model(
        actor=audit.SYSTEM,
        project=house.project,
        pool=house.pool,
        spec=pulls.PullSpec(model, **more),
        now=timezone.now(),
    )


def said(node: Node, pull: Pull, state: PullState, **facts: Any) -> None:
    report = wire.PullReport(pull_id=pull.id, state=state, **facts)
    pulls.note(node, [report], timezone.now())


# --- uploads ------------------------------------------------------------------------------------


def test_an_upload_is_followed_until_it_is_whole(alice: House) -> None:
    client = signed_in(alice.owner)
    page = text(client.get("/uploads"))
    assert "No upload yet." in page
    assert (
        f"stoa models upload ./my-model --project {alice.project.id} --url http://testserver"
        in page
    )
    upload = begun(alice)
    send(upload, 1, WEIGHTS[:1500])
    upload.refresh_from_db()
    page = text(client.get("/uploads"))
    assert 'aria-label="49 % of mine is here"' in page
    assert "1.5 KiB of 2.9 KiB" in page
    assert f"{upload.expires_at:%Y-%m-%d %H:%M:%S}" in page
    assert 'hx-trigger="every 3s"' in page
    rows = text(client.get("/uploads", headers={"hx-request": "true", "hx-target": "rows"}))
    assert rows.lstrip().startswith('<div id="rows"')
    uploads.take_piece(
        actor=audit.SYSTEM, upload=upload, number=1, offset=1500, body=BytesIO(WEIGHTS[1500:]),
        now=timezone.now(),
    )  # fmt: skip
    send(upload, 0, CONFIG)
    page = text(client.get("/uploads"))
    assert '<span class="state good">complete</span>' in page
    assert "hx-trigger" not in page  # nothing changes any more
    assert f"/endpoints/new?source={upload.id}" in page


def test_deleting_says_who_serves_it(alice: House, folder: Path) -> None:
    client, upload = signed_in(alice.owner), whole(alice)
    Endpoint.objects.filter(id=alice.endpoint.id).update(source="upload", model=upload.id)
    page = text(client.get(f"/uploads/{upload.id}/delete"))
    assert f'Served by <a href="/endpoints/{alice.endpoint.id}">chat</a>' in page
    assert client.post(f"/uploads/{upload.id}/delete").headers["location"] == "/uploads"
    assert (Upload.objects.count(), list(folder.iterdir())) == (0, [])


def test_an_endpoint_is_made_of_an_upload(alice: House, mallory: House) -> None:
    client = signed_in(alice.owner)
    mine, half, theirs = whole(alice), begun(alice, "half"), whole(mallory, "theirs")
    page = text(client.get(f"/endpoints/new?source={mine.id}"))
    assert f'<option value="{mine.id}" selected>your upload mine' in page
    assert half.id not in page
    assert theirs.id not in page
    wish = {**WISH, "project": alice.project.id, "name": "own", "source": mine.id, "model": ""}
    made = client.post("/endpoints/new", wish)
    assert made.status_code == 302, text(made)
    endpoint = Endpoint.objects.get(name="own", project=alice.project)
    assert (endpoint.source, endpoint.model) == ("upload", mine.id)
    assert "(your upload mine)" in text(client.get(made.headers["location"]))
    for field, bad in (
        ("source", {"source": theirs.id}),
        ("source", {"source": half.id}),
        ("model", {"model": "org/other"}),
        ("model", {"source": "", "model": ""}),
    ):
        answer = client.post("/endpoints/new", {**wish, "name": "other", **bad})
        assert answer.status_code == 422
        assert f'id="id_{field}_error"' in text(answer), bad


# --- pulls --------------------------------------------------------------------------------------


def test_a_pull_is_asked_for_followed_and_cancelled(alice: House) -> None:
    client = signed_in(alice.owner)
    form = {"project": alice.project.id, "pool": alice.pool.id, "model": "org/big", "source": ""}
    assert client.post("/pulls", form).headers["location"] == "/pulls"
    pull = Pull.objects.get()
    assert (pull.model, pull.source, pull.pool) == ("org/big", "hub", alice.pool)
    said(alice.node, pull, PullState.FETCHING, bytes_done=1 << 30, bytes_total=1 << 32)
    page = text(client.get("/pulls"))
    assert "1.0 GiB of 4.0 GiB" in page
    assert 'width="250"' in page
    assert alice.node.name in page
    assert 'hx-trigger="every 2s"' in page
    rows = text(client.get("/pulls", headers={"hx-request": "true", "hx-target": "rows"}))
    assert rows.lstrip().startswith('<div id="rows"')
    assert client.post(f"/pulls/{pull.id}/cancel").headers["location"] == "/pulls"
    pull.refresh_from_db()
    assert pull.cancelled_at is not None
    page = text(client.get("/pulls"))
    assert '<span class="state calm">cancelled</span>' in page
    assert f"/pulls/{pull.id}/cancel" not in page
    assert client.get(f"/pulls/{pull.id}/cancel").status_code == 405


def test_a_failure_comes_with_its_advice(alice: House) -> None:
    pull = asked(alice)
    said(alice.node, pull, PullState.FAILED, reason="access_denied", detail="the hub says <403>")
    page = text(signed_in(alice.owner).get("/pulls"))
    assert '<span class="state bad">failed</span>' in page
    assert "<code>access_denied</code> the hub says &lt;403&gt;" in page
    assert "Give the project a secret that the model&#x27;s source accepts." in page
    assert "hx-trigger" not in page


def test_what_is_refused_stands_beside_its_field(alice: House, mallory: House) -> None:
    client = signed_in(alice.owner)
    theirs = whole(mallory, "theirs")
    form = {"project": alice.project.id, "pool": alice.pool.id, "model": "org/big", "source": ""}
    for field, bad in (
        ("model", {"model": "nonsense"}),
        ("model", {"model": ""}),
        ("source", {"model": "/models/x"}),
        ("source", {"source": theirs.id}),
        ("pool", {"pool": mallory.pool.id}),
        ("secret", {"secret": "nobody's"}),
    ):
        answer = client.post("/pulls", {**form, **bad})
        assert answer.status_code == 422
        assert f'id="id_{field}_error"' in text(answer), bad
    assert not Pull.objects.exists()
    mine = whole(alice)
    client.post("/pulls", {**form, "model": "", "source": mine.id})
    assert (Pull.objects.get().source, Pull.objects.get().model) == ("upload", mine.id)


def test_only_ones_own_pools_are_offered_and_foreign_nodes_are_not_named(
    alice: House,
) -> None:
    """The operator fills a shared pool for a project: its people see how far it is."""
    pull = asked(alice)
    Pool.objects.filter(id=alice.pool.id).update(organization=None)
    client = signed_in(alice.owner)
    page = text(client.get("/pulls"))
    assert "has no pool of its own" in page
    assert "node 1" in page
    assert f"{alice.node.name} <span" not in page
    User.objects.filter(id=alice.owner.id).update(is_operator=True)
    page = text(client.get("/pulls"))
    assert f'<option value="{alice.pool.id}">' in page
    assert PullNode.objects.get(pull=pull).node.name in page


def test_who_only_looks_changes_nothing(alice: House) -> None:
    upload, pull = whole(alice), asked(alice)
    client = signed_in(alice.billing)
    page = text(client.get("/uploads")) + text(client.get("/pulls"))
    assert upload.id in page
    for button in ("Send a model", "Bring a model", "/delete", "/cancel", "/endpoints/new"):
        assert button not in page
    assert client.post("/pulls", {"project": alice.project.id}).status_code == 403
    assert client.post(f"/pulls/{pull.id}/cancel").status_code == 403
    assert client.post(f"/uploads/{upload.id}/delete").status_code == 403
    assert client.get(f"/uploads/{upload.id}/delete").status_code == 403


def test_the_lists_ask_the_database_as_often_however_long_they_are(
    alice: House, django_assert_max_num_queries: Any
) -> None:
    for number in range(8):
        whole(alice, f"upload {number}")
        asked(alice, f"org/model-{number}")
    client = signed_in(alice.owner)
    for path in ("/uploads", "/pulls"):
        with django_assert_max_num_queries(16):
            client.get(path)
