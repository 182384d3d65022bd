"""A model from a hub, a bucket or an upload of one's own to its first answer.

The hub's is fetched through a killed agent, and then served from the cache.
"""

import hashlib
import json
import os
import random
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from controlplane.endpoints.upload_client import PIECE_BYTES
from tests.agent.fake_hub import CHUNK, FakeHub, Repo
from tests.agent.fake_s3 import FakeS3
from tests.flows.conftest import Made
from tests.flows.stoa import Stoa, environment_of, until
from workers.agent.environment import default_cache

pytestmark = [pytest.mark.engine, pytest.mark.xdist_group("flows")]

TOKEN = "hf_flow_canary_7"
SALT = "salt.json"


@pytest.fixture
def repo(hub: FakeHub, tiny_model: Path) -> Iterator[str]:
    """A tiny model at the hub, with a file that no cache of this machine has seen."""
    name = f"flow/tiny-{os.urandom(6).hex()}"
    salt = random.Random(name).randbytes(60 * CHUNK)
    model = tiny_model / "model"
    files = {path.name: path.read_bytes() for path in model.iterdir()}
    hub.repos[name] = Repo({**files, SALT: salt})
    hub.down, hub.before_chunk = False, lambda path, at: None
    yield name
    cache = default_cache() / "weights"
    shutil.rmtree(cache / "snapshots" / "hub" / name.replace("/", "~"), ignore_errors=True)
    for blob in cache.glob(f"blobs/*/{hashlib.sha256(salt).hexdigest()}"):
        blob.unlink()


def answered(stoa: Stoa, model: str) -> str:
    with stoa.client() as sdk:
        until(lambda: model in {one.id for one in sdk.models.list()}, what="it is routed")
        text = sdk.completions.create(model=model, prompt="import os", max_tokens=3, temperature=0)
        return text.choices[0].text


def test_a_hubs_model_is_fetched_once_and_then_needs_no_hub(
    stoa: Stoa, made: Made, hub: FakeHub, repo: str
) -> None:
    held = threading.Event()

    def before_chunk(path: str, at: int) -> None:
        if path == SALT and at >= 30 * CHUNK:
            held.wait(60)

    hub.before_chunk = before_chunk
    endpoint = made("from-hub", model=repo)
    path = f"/endpoints/{endpoint['id']}"
    total = sum(map(len, hub.repos[repo].files.values()))

    def half() -> bool:
        (one,) = stoa.api.get(path)["replicas"] or [{"bytes_done": 0}]
        return bool(one["bytes_done"] == total - 30 * CHUNK and one["bytes_total"] == total)

    until(half, what="the fetch is shown in bytes")
    killed = stoa.kill("agent")
    until(lambda: stoa.restarted("agent", killed), what="the agent is back")
    held.set()
    (replica,) = made.await_status(endpoint["id"], "ready")["replicas"]
    # The first half did not come twice; a chunk or two may have been under way.
    assert hub.sent_bytes[SALT] < 70 * CHUNK
    assert replica["phase_seconds"]["fetching"] > 0
    first = answered(stoa, "from-hub")
    # Nobody has to be asked for what is public and pinned.
    hub.down = True
    stoa.api.post(f"{path}/stop")
    made.await_status(endpoint["id"], "stopped")
    stoa.api.post(f"{path}/start")
    (again,) = made.await_status(endpoint["id"], "ready")["replicas"]
    assert again["id"] != replica["id"]
    assert answered(stoa, "from-hub") == first


def test_a_gated_model_serves_whom_it_is_open_to(
    stoa: Stoa, made: Made, hub: FakeHub, repo: str
) -> None:
    hub.repos[repo].tokens = {TOKEN}
    endpoint = made("gated", model=repo)

    def denied() -> bool:
        states = stoa.api.transitions(endpoint["id"])
        return any(one["reason"] == "access_denied" for one in states)

    until(denied, what="the source refuses it")
    secret = stoa.api.post(
        "/secrets", {"project": endpoint["project"], "kind": "hub", "value": {"token": TOKEN}}
    )
    try:
        stoa.api.post(f"/endpoints/{endpoint['id']}/start")
        (replica,) = made.await_status(endpoint["id"], "ready")["replicas"]
        assert answered(stoa, "gated")
        # The node had it for the fetch alone.
        record = json.loads((stoa.var / f"agent/replicas/{replica['id']}.json").read_text())
        assert TOKEN not in str(environment_of(record["running"]["pid"]))
        kept = [stoa.var / "agent", default_cache() / "weights", stoa.var / "logs"]
        files = [path for top in kept for path in top.rglob("*") if path.is_file()]
        assert len(files) > 5
        assert not [path for path in files if TOKEN.encode() in path.read_bytes()]
    finally:
        stoa.api.delete(f"/secrets/{secret['id']}")


def test_weights_of_ones_own_are_sent_through_a_killed_web_process_and_served(
    stoa: Stoa, made: Made, tiny_model: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "mine"
    shutil.copytree(tiny_model / "model", folder)
    (folder / SALT).write_bytes(os.urandom(6 * PIECE_BYTES))
    command = [str(Path(sys.executable).with_name("stoa")), "models", "upload", str(folder)]
    command += ["--project", stoa.api.endpoint("hello")["project"], "--json"]
    command += ["--url", stoa.run["console_url"]]
    environment = {"PATH": os.environ["PATH"], "STOA_API_KEY": stoa.run["api_key"]}
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        steps = map(json.loads, process.stdout)
        next(step for step in steps if step["file"] == SALT and step["done_bytes"] > PIECE_BYTES)
        killed = stoa.kill("web")
        *_, last = steps
    assert process.returncode == 0
    assert stoa.restarted("web", killed)
    assert last["state"] == "complete"
    path = f"/model-uploads/{last['id']}"
    try:
        assert stoa.api.get(path)["finished_at"]
        made.ready("own", source="upload", model=last["id"])
        assert answered(stoa, "own")
    finally:
        stoa.api.delete(path)
        cache = default_cache() / "weights"
        for kept in ("snapshots/upload", "blobs"):
            for left in (cache / kept).glob(f"*{last['id']}*"):
                shutil.rmtree(left, ignore_errors=True)


def test_a_projects_bucket_serves_what_its_keys_open(
    stoa: Stoa, made: Made, s3: FakeS3, tiny_model: Path
) -> None:
    """It is the model of `hello`, so it says what `hello` says."""
    model = tiny_model / "model"
    files = {path.name: path.read_bytes() for path in model.iterdir()}
    size = sum(map(len, files.values()))
    bucket = f"flow-{os.urandom(6).hex()}"
    s3.objects = {f"{bucket}/tiny/{name}": content for name, content in files.items()}
    s3.keys = {"AKFLOW": ("s3-flow-canary-7", (f"{bucket}/tiny/",))}
    value = {
        "endpoint_url": s3.url,
        "access_key_id": "AKFLOW",
        "secret_access_key": "s3-flow-canary-7",
    }
    project = stoa.api.endpoint("hello")["project"]
    secret = stoa.api.post("/secrets", {"project": project, "kind": "s3", "value": value})
    try:
        endpoint = made.ready("from-s3", source="s3", model=f"s3://{bucket}/tiny")
        assert endpoint["replicas"][0]["bytes_done"] == size
        assert s3.sent_bytes >= size  # to who signs with the project's keys, and nobody else
        assert answered(stoa, "from-s3") == answered(stoa, "hello") != ""
    finally:
        stoa.api.delete(f"/secrets/{secret['id']}")
        place = hashlib.sha256(f"{s3.url}\0s3://{bucket}/tiny".encode()).hexdigest()[:32]
        kept = default_cache() / "weights" / "snapshots" / "s3" / place
        shutil.rmtree(kept, ignore_errors=True)
