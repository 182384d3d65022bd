import json
import os
from pathlib import Path

import pytest

from workers.agent import models
from workers.agent.environment import Environment
from workers.agent.models import ModelError

# In place of the engine's Python: says what a hub said, and leaves a file behind.
HUB = """#!/bin/sh
for last; do :; done
folder=$(echo "$last" | sed 's/.*"directory": "\\([^"]*\\)".*/\\1/')
echo '{{}}' > "$folder/config.json"
echo '{reply}'
"""


@pytest.fixture
def hub(tmp_path: Path) -> Environment:
    return answering(tmp_path, {"revision": "abc"})


def answering(tmp_path: Path, reply: dict[str, object]) -> Environment:
    python = tmp_path / "engine" / "bin" / "python"
    python.parent.mkdir(parents=True, exist_ok=True)
    python.write_text(HUB.format(reply=json.dumps(reply)))
    python.chmod(0o755)
    return Environment("vllm-cpu", python, tmp_path / "engine")


def test_a_folder_is_used_where_it_is(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    assert models.locate(str(tmp_path), "", tmp_path / "cache") == tmp_path


@pytest.mark.parametrize(
    ("model", "complaint"),
    [
        ("/nowhere/at/all", "there is no model at /nowhere/at/all"),
        ("/tmp", "has no config.json"),
        ("no-slash", "neither an absolute path nor"),
        ("../../etc", "neither an absolute path nor"),
        ("a/b/c", "neither an absolute path nor"),
        ("own er/name", "neither an absolute path nor"),
    ],
)
def test_what_is_no_model_is_said_clearly(tmp_path: Path, model: str, complaint: str) -> None:
    with pytest.raises(ModelError, match=complaint) as caught:
        models.locate(model, "", tmp_path)
    assert caught.value.reason == "model_not_found"


def test_a_revision_cannot_lead_elsewhere(tmp_path: Path) -> None:
    with pytest.raises(ModelError):
        models.locate("owner/name", "../../etc", tmp_path)
    found = models._snapshot("owner/name", "refs/pr/1", tmp_path)
    assert found == tmp_path / "models" / "owner--name" / "refs--pr--1"


def test_a_snapshot_appears_when_it_is_whole(tmp_path: Path, hub: Environment) -> None:
    cache = tmp_path / "cache"
    assert models.locate("owner/name", "abc", cache) is None
    folder = models.fetch("owner/name", "abc", cache, hub)
    assert folder == cache / "models" / "owner--name" / "abc"
    assert models.locate("owner/name", "abc", cache) == folder
    assert models.unreadable(folder) == ""


@pytest.mark.parametrize(
    ("missing", "reason"), [(True, "model_not_found"), (False, "fetch_failed")]
)
def test_what_the_hub_said_is_passed_on(tmp_path: Path, missing: bool, reason: str) -> None:
    environment = answering(tmp_path, {"error": "it said no", "missing": missing})
    with pytest.raises(ModelError, match="owner/name could not be fetched: it said no") as caught:
        models.fetch("owner/name", "", tmp_path / "cache", environment)
    assert caught.value.reason == reason
    assert models.locate("owner/name", "", tmp_path / "cache") is None


def test_a_fetch_can_be_cancelled(tmp_path: Path, hub: Environment) -> None:
    hub.python.write_text("#!/bin/sh\nexec sleep 600\n")
    with pytest.raises(ModelError, match="cancelled"):
        models.fetch("owner/name", "", tmp_path / "cache", hub, cancelled=lambda: True)


def test_weights_that_engines_cannot_read_are_named(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    weights = tmp_path / "model.safetensors"
    weights.write_text("")
    os.chmod(weights, 0o600)
    assert str(weights) in models.unreadable(tmp_path)
    os.chmod(weights, 0o644)
    assert models.unreadable(tmp_path) == ""
