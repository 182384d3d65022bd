"""The same house on the other broker: all of it its own, so it waits for no other flow."""

import tempfile
from pathlib import Path

import pytest

from tests.flows import rabbitmq
from tests.flows.conftest import SETTINGS, Made
from tests.flows.stoa import installation
from tests.flows.test_crash import provision_through

pytestmark = [pytest.mark.engine, pytest.mark.xdist_group("engine")]


@pytest.mark.skipif(not rabbitmq.installed(), reason=rabbitmq.MISSING)
def test_over_rabbitmq(engine_environment: object) -> None:
    """Its worker is killed as it provisions."""
    with (
        tempfile.TemporaryDirectory(prefix="stoa-rabbit-", dir="/tmp") as folder,
        rabbitmq.broker(Path(folder)) as url,
        installation(Path(folder) / "var", **SETTINGS, BROKER_URL=url) as stoa,
    ):
        with pytest.raises(LookupError):
            stoa.pid_of("valkey")
        made = Made(stoa)
        provision_through(stoa, made, "worker")
        made.clear()
