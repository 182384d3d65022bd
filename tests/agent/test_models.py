import os
from pathlib import Path

import pytest

from workers.agent import models
from workers.agent.models import ModelError


def test_a_folder_is_used_where_it_is(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    assert models.folder(str(tmp_path)) == tmp_path


@pytest.mark.parametrize(
    ("model", "complaint"),
    [("/nowhere/at/all", "there is no model at /nowhere/at/all"), ("/tmp", "has no config.json")],
)
def test_what_is_no_model_is_said_clearly(model: str, complaint: str) -> None:
    with pytest.raises(ModelError, match=complaint) as caught:
        models.folder(model)
    assert caught.value.reason == "model_not_found"


def test_weights_that_engines_cannot_read_are_named(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    weights = tmp_path / "model.safetensors"
    weights.write_text("")
    os.chmod(weights, 0o600)
    assert str(weights) in models.unreadable(tmp_path)
    os.chmod(weights, 0o644)
    assert models.unreadable(tmp_path) == ""
