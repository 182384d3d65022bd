"""What a standby imports: for its platform, and nothing that spoils another's."""

import sys
import types

import pytest

from workers.agent.launcher import preload


def platform(monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    found = types.SimpleNamespace(is_cpu=lambda: kind == "cpu", is_cuda=lambda: kind == "cuda")
    module = types.ModuleType("vllm.platforms")
    module.current_platform = found  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "vllm", types.ModuleType("vllm"))
    monkeypatch.setitem(sys.modules, "vllm.platforms", module)


@pytest.mark.parametrize(
    ("kind", "own"), [("cpu", preload.CPU), ("cuda", preload.CUDA), ("rocm", ())]
)
def test_of_the_workers_only_the_platforms_own_is_imported(
    monkeypatch: pytest.MonkeyPatch, kind: str, own: tuple[str, ...]
) -> None:
    """vLLM's CPU worker, imported on a GPU's node, put stand-ins in place of CUDA's streams: every
    engine that was forked on an H100 died of it."""
    platform(monkeypatch, kind)
    imported: list[str] = []
    monkeypatch.setattr(preload, "_attempt", imported.append)
    for step in preload.optional():
        step()
    assert imported == [*own, *preload.OPTIONAL]
    others = {*preload.CPU, *preload.CUDA} - {*own}
    assert not others & {*imported, *preload.CORE}
