"""Models from S3 and from a mounted tree: the same promises as from a hub."""

import hashlib
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from controlplane.fleet import wire
from tests.agent.fake_door import Node
from tests.agent.fake_s3 import FakeS3
from workers.agent.weights import signing
from workers.agent.weights.cache import Cache
from workers.agent.weights.errors import ModelError
from workers.agent.weights.signing import Keys

WEIGHTS = b"w" * 300_000
FOLDER = "models/my model+1"


@pytest.fixture
def s3() -> Iterator[FakeS3]:
    objects = {
        f"bucket/{FOLDER}/config.json": b"{}",
        f"bucket/{FOLDER}/model.safetensors": WEIGHTS,
        f"bucket/{FOLDER}/tokenizer.json": b'{"t": 1}',
        f"bucket/{FOLDER}/notes/readme.md": b"not wanted",
        "bucket/models/other/config.json": b"{}",
    }
    keys: dict[str, tuple[str, tuple[str, ...]]] = {
        "AKIA1": ("secret+/1", ("bucket/models/my",)),
        "AKIA2": ("secret2", ("bucket/models/other",)),
    }
    with FakeS3(objects, keys) as s3:
        yield s3


@pytest.fixture
def node(tmp_path: Path) -> Node:
    return Node(Cache(tmp_path / "weights"))


def source(
    s3: FakeS3, key: str = "AKIA1", secret: str = "secret+/1", *, revision: str = "", project: str
) -> wire.Source:
    return wire.Source(
        kind=wire.SourceKind.S3,
        url=s3.url,
        model=f"s3://bucket/{FOLDER}",
        project_id=project,
        revision=revision,
        access_key_id=key,
        secret_access_key=secret,
        region="fr-par",
    )


def reason(node: Node, asked: wire.Source) -> str:
    with pytest.raises(ModelError) as caught:
        node.fetch(asked)
    return caught.value.reason


def test_a_request_is_signed_as_amazon_shows_it() -> None:
    """The example GET Object of its "Authenticating requests: using the Authorization header"."""
    keys = Keys("AKIAIOSFODNN7EXAMPLE", "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY")
    url = "https://examplebucket.s3.amazonaws.com/test.txt"
    now = datetime(2013, 5, 24, tzinfo=UTC)
    signed = signing.sign("GET", url, {}, {"range": "bytes=0-9"}, keys, now)
    assert signed["authorization"].endswith(
        "SignedHeaders=host;range;x-amz-content-sha256;x-amz-date,"
        "Signature=f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41"
    )
    listed = {"max-keys": "2", "prefix": "J"}
    signed = signing.sign("GET", "https://examplebucket.s3.amazonaws.com/", listed, {}, keys, now)
    assert signed["authorization"].endswith(
        "34b48302e7b5fa45bde8084f4b7868a86f0a534bc59db6670ed5711ef69dc6f7"
    )


def test_a_folder_of_a_bucket_is_a_model(s3: FakeS3, node: Node) -> None:
    found = node.fetch(source(s3, project="prj_a"))
    assert (found.folder / "model.safetensors").read_bytes() == WEIGHTS
    names = {path.name for path in found.folder.iterdir()}
    assert names == {"config.json", "model.safetensors", "tokenizer.json"}
    assert not found.kept.public
    # The same again costs no byte, and its revision names exactly these files.
    sent = s3.sent_bytes
    again = node.fetch(source(s3, revision=found.revision, project="prj_a"))
    assert (again.folder, s3.sent_bytes) == (found.folder, sent)


def test_keys_that_do_not_open_it_get_nothing_of_the_cache(s3: FakeS3, node: Node) -> None:
    found = node.fetch(source(s3, project="prj_a"))
    pinned = {"revision": found.revision, "project": "prj_b"}
    for key, secret in (("AKIA2", "secret2"), ("AKIA1", "wrong"), ("", "")):
        assert reason(node, source(s3, key, secret, **pinned)) == "access_denied"
        assert reason(node, source(s3, key, secret, project="prj_b")) == "access_denied"
    s3.keys["AKIA2"] = ("secret2", ("bucket/",))
    assert node.fetch(source(s3, "AKIA2", "secret2", **pinned)).folder == found.folder


def test_what_anybody_may_read_needs_no_keys(s3: FakeS3, node: Node) -> None:
    s3.public = ("bucket/models/",)
    assert node.fetch(source(s3, "", "", project="prj_a")).kept.public


def test_replicas_serve_the_same_files_or_none(s3: FakeS3, node: Node, tmp_path: Path) -> None:
    found = node.fetch(source(s3, project="prj_a"))
    s3.objects[f"bucket/{FOLDER}/config.json"] = b'{"changed": 1}'
    pinned = source(s3, revision=found.revision, project="prj_a")
    assert node.fetch(pinned).folder == found.folder
    other = Node(Cache(tmp_path / "other"))
    with pytest.raises(ModelError, match="others than those that were served"):
        other.fetch(pinned)
    assert other.fetch(source(s3, project="prj_a")).revision != found.revision


def test_sums_beside_the_files_are_held_to(s3: FakeS3, node: Node) -> None:
    digest = hashlib.sha256(WEIGHTS).hexdigest()
    sums = f"{digest}  ./model.safetensors\n{hashlib.sha256(b'x').hexdigest()} *config.json\n"
    s3.objects[f"bucket/{FOLDER}/SHA256SUMS"] = sums.encode()
    with pytest.raises(ModelError, match=r"config\.json: what the source sent is not"):
        node.fetch(source(s3, project="prj_a"))
    s3.objects[f"bucket/{FOLDER}/SHA256SUMS"] = sums.splitlines()[0].encode()
    found = node.fetch(source(s3, project="prj_a"))
    assert found.kept.sha256["model.safetensors"] == digest


def test_nothing_there_is_said(s3: FakeS3, node: Node) -> None:
    s3.objects.clear()
    assert reason(node, source(s3, project="prj_a")) == "model_not_found"


def test_the_operators_tree_of_files(tmp_path: Path, node: Node) -> None:
    tree = tmp_path / "mirror"
    for revision in ("", "v2"):
        folder = tree / "org" / "name" / revision
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "config.json").write_text("{}")
        (folder / "model.safetensors").write_bytes(WEIGHTS + revision.encode())

    def mirrored(revision: str, model: str = "org/name") -> wire.Source:
        return wire.Source(
            kind=wire.SourceKind.MIRROR,
            url=tree.as_uri(),
            model=model,
            revision=revision,
            project_id="prj_a",
        )

    first = node.fetch(mirrored(""))
    assert first.kept.public
    assert (first.folder / "model.safetensors").read_bytes() == WEIGHTS
    second = node.fetch(mirrored("v2"))
    assert (second.folder / "model.safetensors").read_bytes() == WEIGHTS + b"v2"
    assert node.fetch(mirrored(first.revision)).folder == first.folder
    assert reason(node, mirrored("", "org/none")) == "model_not_found"
