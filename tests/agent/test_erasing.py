"""What an agent erases when its node leaves the fleet, whatever line it is killed at."""

import contextlib
import dataclasses
import itertools
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from controlplane.fleet import wire
from tests.agent.fake_controlplane import ControlPlane
from tests.agent.node import TestNode
from tests.agent.podman import PROBE, Podman
from workers.agent import credential, processes, sharing
from workers.agent.containers import brought, images
from workers.agent.containers.driver import Driver
from workers.agent.erasing import SHARED, Eraser, complete
from workers.agent.settings import Settings, read


class Killed(Exception):
    """The machine's power, at this line."""


@pytest.fixture
def root() -> Iterator[Path]:
    """Short: a unix socket's path has 107 bytes."""
    with tempfile.TemporaryDirectory(prefix="se-", dir="/tmp") as folder:
        yield Path(folder)


@pytest.fixture
def settings(root: Path, plane: ControlPlane) -> Settings:
    """A node that has joined and has served tenants."""
    made = read(
        {
            "STOA_AGENT_DIR": str(root / "agent"),
            "STOA_CACHE_DIR": str(root / "cache"),
            "STOA_AGENT_RUN_DIR": str(root / "run"),
        }
    )
    key = credential.pending_key(made.directory)
    answer = plane.certify(credential.request(key, "node"))
    credential.accept(made.directory, url=plane.url, key=key, credential=answer)
    mark = processes.mark(made.directory)[:6]
    for name, size in {
        "cache/weights/blobs/public/aa": 1000,
        "cache/weights/snapshots/k/r/model.safetensors": 24,
        f"cache/nodes/{mark}/kept/k/0/graph": 7,
        "cache/nodes/other/kept/k/0/graph": 9,
        "cache/engines/vllm/python": 5,
        f"run/{mark}/e/engine.sock": 0,
        "agent/logs/rep_1.log": 300,
        "agent/cursors/rep_1.json": 2,
        "agent/replicas/rep_1.json": 4,
        "agent/events/1.json": 6,
        "agent/meter/boot-000000000001-000000000002.json": 12,
        "agent/devices.json": 8,
    }.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x" * size)
    os.symlink("/etc/passwd", root / "agent/logs/link")
    return made


def left(settings: Settings) -> set[str]:
    root = settings.directory.parent
    found = (path for path in root.rglob("*") if path.is_file() or path.is_symlink())
    return {str(path.relative_to(root)) for path in found}


NOT_OURS = {"cache/nodes/other/kept/k/0/graph", "cache/engines/vllm/python"}


def by_name(erased: wire.Erased) -> dict[str, wire.ErasedItem]:
    return {item.what: item for item in erased.items}


def test_what_tenants_left_goes_and_the_credential_last(settings: Settings) -> None:
    eraser = Eraser(settings)
    erased = eraser.erase("dcm_1")
    assert complete(erased)
    weights = by_name(erased)["weights"]
    assert (weights.files, weights.bytes, len(weights.sha256)) == (2, 1024, 64)
    assert by_name(erased)["logs"].files == 2  # the link, and not what it points to
    assert "credential" not in by_name(erased)
    assert left(settings) == NOT_OURS | {
        "agent/identity.json",
        "agent/certificate.pem",
        "agent/erase.json",
    }
    assert Path("/etc/passwd").exists()

    last = eraser.erase_credential("dcm_1")
    assert by_name(last)["credential"].files == 2 and complete(last)
    assert by_name(last)["weights"] == weights
    eraser.forget()
    assert left(settings) == NOT_OURS


@pytest.mark.parametrize("stop", range(1, 21))
def test_killed_at_any_line_it_goes_on_and_says_the_same(settings: Settings, stop: int) -> None:
    steps = itertools.count(1)

    def step(_: str) -> None:
        if next(steps) == stop:
            raise Killed

    with pytest.raises(Killed):
        Eraser(settings).erase("dcm_1", step)
    erased = Eraser(settings).erase("dcm_1")
    assert complete(erased)
    found = {item.what: (item.files, item.bytes) for item in erased.items}
    link = len("/etc/passwd")
    assert found == {
        "weights": (2, 1024),
        "templates": (0, 0),
        "engine_caches": (1, 7),
        "sockets": (1, 0),
        "logs": (2, 300 + link),
        "cursors": (1, 2),
        "replicas": (1, 4),
        "events": (1, 6),
        "meter": (1, 12),
        "devices": (1, 8),
        "images": (0, 0),
    }
    assert by_name(Eraser(settings).erase("dcm_1")) == by_name(erased)


def test_what_another_agent_uses_is_kept_and_said_so(settings: Settings) -> None:
    other = processes.mark(settings.directory / "other")
    mine = processes.mark(settings.directory)
    with sharing.using(settings.cache, mine), sharing.using(settings.cache, other):
        erased = Eraser(settings).erase("dcm_1")
        assert complete(erased)
        assert by_name(erased)["weights"].why == SHARED
        assert "cache/weights/blobs/public/aa" in left(settings)
        assert by_name(erased)["engine_caches"].files == 1
    again = Eraser(settings).erase("dcm_1")  # it has gone meanwhile
    assert (by_name(again)["weights"].files, by_name(again)["weights"].why) == (2, "")
    assert "cache/weights/blobs/public/aa" not in left(settings)


def test_what_cannot_be_removed_is_not_done(settings: Settings, root: Path) -> None:
    if os.geteuid() == 0:
        pytest.skip("root removes what it likes")
    (root / "agent/logs").chmod(0o500)
    erased = Eraser(settings).erase("dcm_1")
    assert not complete(erased) and by_name(erased)["logs"].why
    (root / "agent/logs").chmod(0o700)
    assert complete(Eraser(settings).erase("dcm_1"))


def test_an_agent_that_is_told_to_erases_and_ends(plane: ControlPlane, node: TestNode) -> None:
    agent = node.agent()
    plane.wait_for_applied()
    (node.root / "cache/weights/blobs").mkdir(parents=True)
    (node.root / "cache/weights/blobs/b").write_bytes(b"weights")
    plane.change(lambda: setattr(plane, "erase", wire.Erase(id="dcm_1")))
    assert agent.wait(60) == 4, node.said()
    first, last = plane.erased[0], plane.erased[-1]
    assert by_name(first)["weights"].bytes == 7 and "credential" not in by_name(first)
    assert by_name(last)["credential"].done
    assert not (node.directory / "identity.json").exists()
    assert not (node.root / "cache/weights").exists()
    assert node.ask("run") == 3  # it is nobody any more


def test_images_that_were_brought_go_too(settings: Settings, podman: Podman) -> None:
    repository, tag = "localhost/stoa-erased", "1"
    with contextlib.closing(Driver(podman.address)) as driver:
        driver.client.api.tag(PROBE, repository, tag)
        name = f"{repository}:{tag}"
        brought.note(settings.directory, name)
        here = dataclasses.replace(settings, containers="unix:///nowhere.sock")
        erased = Eraser(here).erase("dcm_1")
        assert not complete(erased) and by_name(erased)["images"].why
        assert images.here(driver, name)

        here = dataclasses.replace(settings, containers=podman.address)
        erased = Eraser(here).erase("dcm_1")
        assert complete(erased) and by_name(erased)["images"].files == 1
        assert not images.here(driver, name) and images.here(driver, PROBE)
        assert complete(Eraser(here).erase("dcm_1"))
