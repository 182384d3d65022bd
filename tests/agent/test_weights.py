"""Models from a hub, over its real protocol: whole, verified, resumed, kept, and guarded."""

import hashlib
import os
import random
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.agent.fake_door import Node, hub_source
from tests.agent.fake_hub import CHUNK, FakeHub, Repo
from tests.agent.fake_runner import wait_until
from workers.agent import models
from workers.agent.weights.cache import Cache
from workers.agent.weights.errors import ModelError

ROOT = Path(__file__).parents[2]
BYTES = random.Random(4).randbytes(40 * CHUNK)
FILES = {
    "config.json": b"{}",
    "model.safetensors": BYTES,
    "tokenizer.json": b"{}",
    "onnx/model.onnx": b"not wanted",
    "modeling.py": b"not wanted",
}
NAME = "owner/name"


@pytest.fixture
def hub() -> Iterator[FakeHub]:
    with FakeHub({NAME: Repo(dict(FILES))}) as hub:
        yield hub


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache(tmp_path / "weights")


@pytest.fixture
def node(cache: Cache) -> Node:
    return Node(cache)


def reason(node: Node, url: str, model: str = NAME, **more: str) -> str:
    with pytest.raises(ModelError) as caught:
        node.fetch(hub_source(url, model, **more))
    return caught.value.reason


def test_a_snapshot_is_whole_verified_and_read_only(hub: FakeHub, node: Node) -> None:
    found = node.fetch(hub_source(hub.url, NAME))
    commit = hub.repos[NAME].commit
    assert found.revision == commit
    assert found.kept.public
    names = {str(p.relative_to(found.folder)) for p in found.folder.rglob("*")}
    assert names == {"config.json", "model.safetensors", "tokenizer.json"}
    weights = found.folder / "model.safetensors"
    assert weights.read_bytes() == BYTES
    assert weights.stat().st_mode & 0o777 == 0o444
    assert models.unreadable(found.folder) == ""
    assert found.kept.sha256["model.safetensors"] == hashlib.sha256(BYTES).hexdigest()
    total = sum(len(FILES[name]) for name in names)
    assert node.told[-1] == (total, total)
    assert [done for done, _ in node.told] == sorted(done for done, _ in node.told)
    # Two files of one content are one blob.
    assert weights.stat().st_nlink == 2
    assert (found.folder / "config.json").stat().st_nlink == 3


def test_a_pinned_public_model_starts_without_anybody(hub: FakeHub, node: Node) -> None:
    first = node.fetch(hub_source(hub.url, NAME))
    hub.down, asked = True, node.door.asked
    again = node.fetch(hub_source(hub.url, NAME, revision=first.revision))
    assert (again.folder, node.door.asked) == (first.folder, asked)
    # A branch is what it last was, where the hub cannot be asked.
    assert node.fetch(hub_source(hub.url, NAME)).folder == first.folder
    assert reason(node, hub.url, "owner/other") == "fetch_failed"


def test_a_new_revision_brings_only_what_changed(hub: FakeHub, node: Node) -> None:
    first = node.fetch(hub_source(hub.url, NAME))
    hub.repos[NAME].files["config.json"] = b'{"new": 1}'
    second = node.fetch(hub_source(hub.url, NAME))
    assert second.revision != first.revision
    assert hub.sent_bytes["model.safetensors"] == len(BYTES)
    assert (second.folder / "config.json").read_bytes() == b'{"new": 1}'
    assert (first.folder / "config.json").read_bytes() == b"{}"


@pytest.mark.parametrize("ranges", [True, False])
def test_a_connection_that_breaks_is_taken_up_again(
    hub: FakeHub, node: Node, ranges: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.ranges = ranges
    breaks = iter([10, 20])
    due = [next(breaks)]

    def before_chunk(path: str, at: int) -> None:
        if path == "model.safetensors" and due and at >= due[0] * CHUNK:
            due[:] = [n for n in [next(breaks, None)] if n is not None]
            raise BrokenPipeError

    hub.before_chunk = before_chunk
    found = node.fetch(hub_source(hub.url, NAME))
    assert (found.folder / "model.safetensors").read_bytes() == BYTES
    sent = hub.sent_bytes["model.safetensors"]
    assert (sent <= len(BYTES) + 2 * CHUNK) if ranges else (sent > len(BYTES))


def test_what_is_not_what_the_hub_lists_is_no_model(hub: FakeHub, node: Node) -> None:
    hub.corrupt = {"model.safetensors"}
    assert reason(node, hub.url) == "fetch_failed"
    hub.repos[NAME].files["tokenizer.json"] = b'{"new": 1}'
    hub.corrupt = {"tokenizer.json"}  # which git's own sum vouches for
    assert reason(node, hub.url) == "fetch_failed"
    hub.corrupt = set()
    assert (node.fetch(hub_source(hub.url, NAME)).folder / "config.json").exists()


def test_a_damaged_part_is_thrown_away(hub: FakeHub, node: Node, cache: Cache) -> None:
    part = cache.part(hashlib.sha256(BYTES).hexdigest())
    part.write_bytes(b"\0" * CHUNK)
    found = node.fetch(hub_source(hub.url, NAME))
    assert (found.folder / "model.safetensors").read_bytes() == BYTES


@pytest.mark.parametrize("path", ["../config.json", "a/../../config.json", "/etc/x.json"])
def test_a_hub_cannot_write_elsewhere(hub: FakeHub, node: Node, path: str) -> None:
    hub.repos[NAME].files[path] = b"{}"
    assert reason(node, hub.url) == "fetch_failed"


def test_what_there_is_not_is_said(hub: FakeHub, node: Node) -> None:
    assert reason(node, hub.url, "owner/nothing") == "model_not_found"
    assert reason(node, hub.url, revision="nothing") == "model_not_found"
    hub.repos["owner/empty"] = Repo({"readme.md": b""})
    assert reason(node, hub.url, "owner/empty") == "fetch_failed"


def test_a_fetch_can_be_cancelled(hub: FakeHub, node: Node) -> None:
    stop = threading.Event()
    hub.before_chunk = lambda path, at: stop.set()
    with pytest.raises(ModelError, match="cancelled"):
        node.fetch(hub_source(hub.url, NAME), cancelled=stop.is_set)


# --- after a kill -----------------------------------------------------------------------

FETCH = """
import sys
from pathlib import Path
from tests.agent.fake_door import Node, hub_source
from workers.agent.weights.cache import Cache
Node(Cache(Path(sys.argv[1]))).fetch(hub_source(sys.argv[2], "owner/name"))
"""


def test_a_killed_download_goes_on_from_its_bytes(hub: FakeHub, node: Node, cache: Cache) -> None:
    held = threading.Event()

    def before_chunk(path: str, at: int) -> None:
        if path == "model.safetensors" and at >= 20 * CHUNK and not held.is_set():
            held.wait(30)

    hub.before_chunk = before_chunk
    process = subprocess.Popen(
        [sys.executable, "-c", FETCH, str(cache.root), hub.url],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT}/platform"},
    )
    part = cache.part(hashlib.sha256(BYTES).hexdigest())
    wait_until(lambda: part.exists() and part.stat().st_size > 0, 20)
    process.kill()
    process.wait()
    here = part.stat().st_size
    held.set()
    assert not list(cache.root.glob("snapshots/*/*/*.json"))
    hub.sent_bytes.clear()
    found = node.fetch(hub_source(hub.url, NAME))
    assert (found.folder / "model.safetensors").read_bytes() == BYTES
    assert hub.sent_bytes["model.safetensors"] <= len(BYTES) - here + 20 * CHUNK
    assert node.told[-1][0] == node.told[-1][1]


def test_two_that_want_the_same_bring_it_once(hub: FakeHub, cache: Cache) -> None:
    threads = [
        threading.Thread(target=lambda: Node(cache).fetch(hub_source(hub.url, NAME)))
        for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert hub.sent_bytes["model.safetensors"] == len(BYTES)


# --- who may have it --------------------------------------------------------------------


def test_a_gated_model_in_the_cache_serves_who_proves_access(hub: FakeHub, node: Node) -> None:
    hub.repos[NAME].tokens = {"hf_a"}
    theirs = node.fetch(hub_source(hub.url, NAME, token="hf_a"))
    assert not theirs.kept.public
    sent = dict(hub.sent_bytes)
    for token in ("", "hf_b"):
        source = {"token": token, "project_id": "prj_b"}
        assert reason(node, hub.url, **source) == "access_denied"
        assert reason(node, hub.url, **source, revision=theirs.revision) == "access_denied"
    # Another project that may have it needs no byte of it.
    hub.repos[NAME].tokens = {"hf_a", "hf_b"}
    node.fetch(hub_source(hub.url, NAME, token="hf_b", project_id="prj_b"))
    assert hub.sent_bytes == sent


def test_a_proof_outlives_an_outage_for_a_day_and_no_longer(hub: FakeHub, node: Node) -> None:
    hub.repos[NAME].tokens = {"hf_a"}
    commit = node.fetch(hub_source(hub.url, NAME, token="hf_a")).revision
    hub.down = True
    ours = {"token": "hf_a", "revision": commit}
    node.now += 3600
    node.fetch(hub_source(hub.url, NAME, **ours))
    assert reason(node, hub.url, **{**ours, "token": "hf_x"}) == "fetch_failed"
    assert reason(node, hub.url, **ours, project_id="prj_b") == "fetch_failed"
    node.now += 86_400
    assert reason(node, hub.url, **ours) == "fetch_failed"
    hub.down = False
    node.fetch(hub_source(hub.url, NAME, **ours))
    hub.repos[NAME].tokens = set()
    assert reason(node, hub.url, **ours) == "access_denied"
    hub.down = True  # the refusal took the proof with it
    assert reason(node, hub.url, **ours) == "fetch_failed"


def test_a_private_model_is_not_there_for_strangers(hub: FakeHub, node: Node) -> None:
    hub.repos[NAME].tokens, hub.repos[NAME].hidden = {"hf_a"}, True
    commit = node.fetch(hub_source(hub.url, NAME, token="hf_a")).revision
    assert reason(node, hub.url, project_id="prj_b") == "model_not_found"
    stranger = {"project_id": "prj_b", "revision": commit}
    assert reason(node, hub.url, **stranger) == "access_denied"


def test_a_token_stays_with_its_hub(hub: FakeHub, node: Node) -> None:
    """The second server of the hub refuses whoever brings one; and nothing keeps it."""
    hub.repos[NAME].tokens = {"hf_secret"}
    found = node.fetch(hub_source(hub.url, NAME, token="hf_secret"))
    root = node.weights.cache.root
    kept = [path.read_bytes() for path in root.rglob("*") if path.is_file()]
    assert any(b"owner" in content for content in kept) or found.folder.exists()
    assert not [content for content in kept if b"hf_secret" in content]


def test_a_hash_alone_opens_nothing(hub: FakeHub, node: Node) -> None:
    """Whoever lists another's hash must have its bytes: private blobs are seen from one model."""
    hub.repos[NAME].tokens = {"hf_a"}
    node.fetch(hub_source(hub.url, NAME, token="hf_a"))
    hub.repos["thief/copy"] = Repo({"config.json": b"{}", "model.safetensors": BYTES})
    hub.corrupt = {"model.safetensors"}  # the thief has the sum, and not the content
    assert reason(node, hub.url, "thief/copy", project_id="prj_b") == "fetch_failed"
