import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.gateway.house import beat, config, house, road
from tests.gateway.rig import OTHER_KEY, Rig

__all__ = ["beat", "config", "house", "road"]  # fixtures


@pytest.fixture(scope="module")
def shared() -> Iterator[Rig]:
    """One gateway for a module's tests that leave it as it was: endpoint `tiny`, one engine."""
    # A short path: the name of a unix socket has 107 characters at most.
    with tempfile.TemporaryDirectory(prefix="gw-") as folder:
        rig = Rig(Path(folder))
        rig.key()
        rig.key(OTHER_KEY, project_id="prj_theirs", organization_id="org_theirs")
        engine = rig.engine("ep_tiny", adapters=["poet"])
        rig.endpoint("tiny", [engine], adapters=["poet"])
        yield rig
        rig.stop()


@pytest.fixture
def tiny(shared: Rig) -> Rig:
    """The shared gateway with nothing recorded yet."""
    shared.spool.opened.clear()
    shared.spool.closed.clear()
    shared.activity.events.clear()
    for engine in shared.engines:
        engine.seen.clear()
    return shared


@pytest.fixture
def rig() -> Iterator[Rig]:
    """A gateway of one's own, with a key."""
    with tempfile.TemporaryDirectory(prefix="gw-") as folder:
        made = Rig(Path(folder))
        made.key()
        yield made
        made.stop()
