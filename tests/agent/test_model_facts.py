"""What an agent reads of the models that it brings: once each, and whatever their files hold."""

import json
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from controlplane.fleet import wire
from tests.agent.fake_door import FakeDoor, hub_source
from tests.agent.fake_hub import FakeHub, Repo
from workers.agent import model_facts
from workers.agent.model_facts import ModelFacts
from workers.agent.node_runner import NodeRunner
from workers.agent.settings import read

CONFIG = b'{"model_type": "llama"}'
NAME = "owner/name"


def safetensors(**sizes: int) -> bytes:
    said, end = {}, 0
    for name, size in sizes.items():
        said[name] = {"dtype": "U8", "shape": [size], "data_offsets": [end, end + size]}
        end += size
    text = json.dumps(said).encode()
    return struct.pack("<Q", len(text)) + text + bytes(end)


@pytest.fixture
def hub() -> Iterator[FakeHub]:
    files = {"config.json": CONFIG, "model.safetensors": safetensors(a=10, b=20)}
    with FakeHub({NAME: Repo(files)}) as hub:
        yield hub


def test_what_a_pull_brought_is_read(hub: FakeHub, tmp_path: Path) -> None:
    given = {"STOA_AGENT_DIR": str(tmp_path), "STOA_CACHE_DIR": str(tmp_path / "cache")}
    node = NodeRunner(read({**given, "STOA_AGENT_DEVICES": "cpu:1"}))
    door = FakeDoor()
    door.sources[""] = hub_source(hub.url, NAME)  # a pull names no replica
    node.connect(door)
    pull = wire.Pull(pull_id="pul_1", source=wire.SourceKind.HUB, model=NAME)
    commit = node.pull(pull, lambda *_, **__: None, lambda: False)
    assert node.model_facts.waiting() == [
        wire.ModelFacts(
            pull_id="pul_1",
            revision=commit,
            config=CONFIG.decode(),
            tensors={"rest": 30},
            public=True,
        )
    ]


def test_each_waits_until_a_report_took_it(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_bytes(CONFIG)
    facts = ModelFacts()
    for number in range(model_facts.AT_ONCE + 1):
        facts.note(tmp_path, replica_id=f"rep_{number}")
    first = facts.waiting()
    assert [one.replica_id for one in first] == [f"rep_{n}" for n in range(model_facts.AT_ONCE)]
    assert facts.waiting() == first  # its report was not answered
    facts.taken(first)
    assert [one.replica_id for one in facts.waiting()] == [f"rep_{model_facts.AT_ONCE}"]
    for number in range(2 * model_facts.MOST):
        facts.note(tmp_path, replica_id=f"rep_{number}")
    facts.taken(facts.waiting())
    assert facts.waiting()[0].replica_id == f"rep_{model_facts.MOST + model_facts.AT_ONCE}"


def test_files_that_say_nothing_are_not_told(tmp_path: Path) -> None:
    facts = ModelFacts()
    facts.note(tmp_path / "nowhere", replica_id="rep_1")
    facts.note(tmp_path, replica_id="rep_1")
    (tmp_path / "config.json").write_bytes(b"\xff\xfe")
    facts.note(tmp_path, replica_id="rep_1")
    (tmp_path / "config.json").write_bytes(b"x" * (256 << 10) + b"y")
    facts.note(tmp_path, replica_id="rep_1")
    assert facts.waiting() == []
    (tmp_path / "config.json").write_bytes(CONFIG)
    (tmp_path / "model.safetensors").write_bytes(b"\xff" * 64)
    facts.note(tmp_path, replica_id="rep_1")
    (told,) = facts.waiting()
    assert (told.config, told.tensors) == (CONFIG.decode(), {})
