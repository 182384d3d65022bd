"""The walls between the rooms hold: each is broken once on purpose, in a copy, to see it caught."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.test_layout import ROOT

pytestmark = pytest.mark.xdist_group("walls")  # one copy, and one cache of what imports what

ROOMS = ("platform", "billing", "workers", "compliance", "frontend")
# Which wall, and a line in a file that goes through it and through no other.
BREACHES = [
    ("Rooms", "compliance/ids.py", "import billing.rating"),
    ("Rooms", "billing/apps.py", "import controlplane.placement.choose"),
    ("Rooms", "platform/controlplane/tenancy/names.py", "import workers.agent.files"),
    ("Rooms", "frontend/rates.py", "import workers.metering"),
    (
        "Storeys of the control plane",
        "platform/controlplane/tenancy/names.py",
        "import controlplane.fleet.regions",
    ),
    (
        "Storeys of the control plane",
        "platform/controlplane/placement/choose.py",
        "import controlplane.endpoints.states",
    ),
    ("Stripe has one door", "platform/controlplane/tenancy/names.py", "import stripe"),
    ("Stripe has one door", "billing/books/ledger.py", "import stripe"),
    ("No Django, no Celery", "platform/gateway/usage.py", "import django.conf"),
    ("No Django, no Celery", "workers/agent/files.py", "import celery"),
    ("No Django, no Celery", "platform/controlplane/scaling/load.py", "import django.conf"),
    ("No Django, no Celery", "platform/controlplane/fleet/wire.py", "import django.conf"),
    ("No Django, no Celery", "billing/einvoice/terms.py", "import django.conf"),
    ("Predictions ask nobody", "platform/controlplane/placement/memory/weights.py", "import torch"),
    ("Predictions ask nobody", "platform/controlplane/placement/models/towers.py", "import socket"),
    ("Predictions ask nobody", "platform/controlplane/placement/speed/work.py", "import urllib"),
    ("Celery lives in workers", "platform/controlplane/endpoints/signals.py", "import celery"),
    (
        "The gateway borrows only what is pure",
        "platform/gateway/usage.py",
        "import controlplane.fleet.wire",
    ),
]


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    tree = tmp_path_factory.mktemp("walls")
    for room in ROOMS:
        shutil.copytree(
            ROOT / room,
            tree / room,
            ignore=shutil.ignore_patterns("__pycache__", "static", "templates"),
        )
    shutil.copy2(ROOT / "pyproject.toml", tree)
    return tree


@pytest.fixture
def breach(copy: Path, request: pytest.FixtureRequest) -> Iterator[None]:
    _, name, line = request.param
    file = copy / name
    before = file.read_text()
    file.write_text(f"{before}\n{line}\n")
    yield
    file.write_text(before)


def broken(tree: Path) -> list[str]:
    """The contracts that the linter finds broken."""
    done = subprocess.run(
        [
            str(Path(sys.executable).with_name("lint-imports")),
            *("--config", str(tree / "pyproject.toml"), "--cache-dir", str(tree / "cache")),
        ],
        cwd=tree,
        env={**os.environ, "PYTHONPATH": f"{tree / 'platform'}:{tree}", "NO_COLOR": "1"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    lines = (re.sub(r" \(\d+ ignored imports?\)$", "", line) for line in done.stdout.splitlines())
    verdicts = [line.rsplit(maxsplit=1) for line in lines]
    found = [words[0] for words in verdicts if len(words) == 2 and words[1] == "BROKEN"]
    assert (done.returncode == 0) is (not found), done.stdout + done.stderr
    return found


def contracts() -> dict[str, dict[str, Any]]:
    with (ROOT / "pyproject.toml").open("rb") as file:
        settings = tomllib.load(file)
    return {each["name"]: each for each in settings["tool"]["importlinter"]["contracts"]}


def test_each_wall_is_tried() -> None:
    assert {wall for wall, _, _ in BREACHES} == set(contracts())


def test_a_new_module_of_billing_is_out_of_the_gateways_reach() -> None:
    """The linter has no way to say "all but these": the list must grow with the room."""
    room = ROOT / "billing"
    packages = {path.parent.name for path in room.glob("*/__init__.py")} - {"migrations"}
    modules = {f"billing.{name}" for name in packages | {path.stem for path in room.glob("*.py")}}
    closed = set(contracts()["The gateway borrows only what is pure"]["forbidden_modules"])
    pure = {f"billing.{name}" for name in ("passes", "pseudonyms", "rating", "windows")}
    assert modules - closed == {"billing.__init__", *pure}


def test_the_walls_hold(copy: Path) -> None:
    assert broken(copy) == []


@pytest.mark.parametrize(
    ("wall", "breach"), [(each[0], each) for each in BREACHES], indirect=["breach"]
)
@pytest.mark.usefixtures("breach")
def test_a_breach_is_caught_by_its_wall(copy: Path, wall: str) -> None:
    assert broken(copy) == [wall]
