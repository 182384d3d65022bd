"""Weights of one's own: in pieces, taken up again, verified, and for their project alone."""

import hashlib
import threading
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from django.db import connections

from compliance import places
from compliance.models import AuditEvent
from controlplane.endpoints import source_grants, uploads
from controlplane.endpoints.errors import Invalid
from controlplane.endpoints.models import Endpoint, Upload
from controlplane.fleet import wire
from controlplane.fleet.models import Node
from controlplane.tenancy.errors import Conflict
from tests.endpoints.world import ACTOR, World, organization

WEIGHTS = b"w" * 1000


@pytest.fixture(autouse=True)
def folder(settings: Any, tmp_path: Path) -> Path:
    settings.UPLOADS_DIR = tmp_path
    return tmp_path


def declared(**contents: bytes) -> list[dict[str, Any]]:
    return [
        {"path": path, "size_bytes": len(text), "sha256": hashlib.sha256(text).hexdigest()}
        for path, text in {"config.json": b"{}", **contents}.items()
    ]


def begin(world: World, files: list[dict[str, Any]] | None = None) -> Upload:
    files = declared(**{"model.safetensors": WEIGHTS}) if files is None else files
    return uploads.begin_upload(
        actor=ACTOR, project=world.project, name="mine", files=files, now=world.now
    )


def piece(world: World, upload: Upload, number: int, offset: int, content: bytes) -> int:
    return uploads.take_piece(
        actor=ACTOR,
        upload=upload,
        number=number,
        offset=offset,
        body=BytesIO(content),
        now=world.now,
    ).received_bytes


def whole(world: World) -> Upload:
    upload = begin(world)
    piece(world, upload, 0, 0, b"{}")
    piece(world, upload, 1, 0, WEIGHTS)
    upload.refresh_from_db()
    return upload


def test_pieces_go_on_where_the_last_one_ended(world: World, folder: Path) -> None:
    upload = begin(world)
    assert piece(world, upload, 0, 0, b"{}") == 2
    assert piece(world, upload, 1, 0, WEIGHTS[:300]) == 300
    for offset in (0, 299, 301, 1000):
        with pytest.raises(Conflict, match="begins at byte 300"):
            piece(world, upload, 1, offset, WEIGHTS)
    # What a piece that was cut off left beyond is written over.
    place = uploads.place(upload.files.get(number=1))
    place.write_bytes(place.read_bytes() + b"left over")
    assert piece(world, upload, 1, 300, WEIGHTS[300:]) == 1000
    assert place.read_bytes() == WEIGHTS
    upload.refresh_from_db()
    assert upload.finished_at == world.now
    uploads.delete_upload(actor=ACTOR, upload=upload, now=world.now)
    assert list(folder.iterdir()) == []


def test_what_was_not_declared_does_not_count(world: World) -> None:
    upload = begin(world)
    with pytest.raises(Conflict, match="is not what was declared"):
        piece(world, upload, 0, 0, b"[]")
    with pytest.raises(Invalid, match="ends with its file"):
        piece(world, upload, 0, 0, b"{}}")
    with pytest.raises(Invalid, match="no file of this number"):
        piece(world, upload, 7, 0, b"{}")
    assert piece(world, upload, 0, 0, b"{}") == 2


@pytest.mark.parametrize("path", ["../x.json", "/etc/x", "a//b", ".hidden", "a/../b", ""])
def test_a_path_leads_nowhere_else(world: World, path: str) -> None:
    with pytest.raises(Invalid, match="plain relative path"):
        begin(world, declared(**{path: b"x"}))


def test_a_project_has_a_bound(world: World, settings: Any) -> None:
    settings.UPLOADS_PROJECT_BYTES = 1500
    begin(world)
    with pytest.raises(Invalid, match="uploads at most 1500 bytes"):
        begin(world)


def test_one_that_nobody_goes_on_with_is_removed(world: World, folder: Path, settings: Any) -> None:
    settings.UPLOADS_UNFINISHED_S = 100
    kept, upload = whole(world), begin(world)
    world.later(60)
    piece(world, upload, 1, 0, WEIGHTS[:300])
    world.later(99)
    assert uploads.expire(world.now) == 0
    world.later(1)
    assert uploads.expire(world.now) == 1
    assert [one.id for one in Upload.objects.all()] == [kept.id]  # what is whole stays
    assert [one.name for one in folder.iterdir()] == [kept.id]
    assert AuditEvent.objects.filter(action="upload.expire", target_id=upload.id).exists()


@pytest.mark.django_db(transaction=True)
def test_two_last_pieces_at_once_make_it_whole(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    upload = begin(world)
    both, check = threading.Barrier(2), uploads._sum

    def meet(path: Path) -> str:
        both.wait(10)
        return check(path)

    monkeypatch.setattr(uploads, "_sum", meet)

    def send(number: int, content: bytes) -> None:
        try:
            piece(world, upload, number, 0, content)
        finally:
            connections.close_all()

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(send, (0, 1), (b"{}", WEIGHTS)))
    upload.refresh_from_db()
    assert (upload.finished_at, upload.expires_at) == (world.now, None)


def test_only_its_project_serves_it(world: World, node: Node) -> None:
    upload = whole(world)
    mine = world.replica(world.endpoint(source="upload", model=upload.id), node)
    request = wire.SourceRequest(replica_id=mine.id)
    told = source_grants.grant(node, request, world.now)
    assert [file.path for file in told.files] == ["config.json", "model.safetensors"]
    assert source_grants.uploaded_file(node, upload.id, 1).path == "model.safetensors"
    other = world.node("n2")
    with pytest.raises(source_grants.Refused):
        source_grants.uploaded_file(other, upload.id, 1)
    world.pool.organization = None
    world.pool.save()
    stranger = organization("stranger")
    with pytest.raises(Invalid, match="no complete upload of this id"):
        world.endpoint(project=stranger, source="upload", model=upload.id)
    # Not even if it were written down.
    stolen = world.endpoint(project=stranger)
    spec = stolen.versions.get().spec | {"source": "upload", "model": upload.id}
    stolen.versions.create(number=2, spec=spec, created_at=world.now)
    Endpoint.objects.filter(id=stolen.id).update(generation=2, model=upload.id)
    stolen.refresh_from_db()
    theirs = world.replica(stolen, other)
    with pytest.raises(source_grants.Refused):
        source_grants.grant(other, wire.SourceRequest(replica_id=theirs.id), world.now)
    with pytest.raises(source_grants.Refused):
        source_grants.uploaded_file(other, upload.id, 1)


def test_an_unfinished_one_serves_nobody(world: World, node: Node) -> None:
    upload = begin(world)
    with pytest.raises(Invalid, match="no complete upload of this id"):
        world.endpoint(source="upload", model=upload.id)


def test_compliance_knows_where_they_lie(world: World, folder: Path) -> None:
    whole(world)
    (place,) = [one for one in places.places() if one.name == "model_uploads"]
    assert place.erase(world.project.id, world.now) == 1
    assert (Upload.objects.count(), list(folder.iterdir())) == (0, [])
