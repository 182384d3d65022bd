"""Makes `xdist_group` hold: tests of a group run on one worker, one after the other.

xdist 3.8 writes the group into an attribute that pytest 9.2 no longer reads, so the mark is
ignored without a word, and what must not run twice at once does. Here the group of a test is the
one that its file is marked with. A plugin (`-p tests.groups`): the controller decides.
"""

import re
from functools import cache
from pathlib import Path

import pytest
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling

_GROUP = re.compile(r"""^pytestmark = .*xdist_group\(["'](\w+)["']\)""", re.MULTILINE)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> LoadScopeScheduling | None:
    """In place of xdist's own for `--dist loadgroup`."""
    return Groups(config, log) if config.getoption("dist") == "loadgroup" else None


class Groups(LoadScopeScheduling):  # type: ignore[misc]
    """Largest group first; a test without one is a group of its own."""

    def _split_scope(self, nodeid: str) -> str:
        return group(self.config.rootpath / nodeid.partition("::")[0]) or nodeid


@cache
def group(path: Path) -> str:
    """The group that a test file is marked with, or nothing."""
    found = _GROUP.search(path.read_text())
    return found[1] if found else ""
