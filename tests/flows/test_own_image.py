"""An endpoint from an image of one's own, as its owner sees it: made over the API, asked through
the gateway, and gone."""

from functools import partial

import pytest

from tests.agent.podman import PROBE, Podman
from tests.flows.conftest import Made
from tests.flows.stoa import Stoa, until

pytestmark = [pytest.mark.engine, pytest.mark.xdist_group("flows")]


def test_an_image_serves(stoa: Stoa, made: Made, podman: Podman) -> None:
    image = {"reference": PROBE, "env": {"COLOUR": "blue"}}
    endpoint = made.ready("own-image", model="", engine="custom", engine_args={}, image=image)
    (replica,) = stoa.api.replicas(endpoint["id"])
    assert replica["state"] == "ready"
    (container,) = podman.client.containers.list(filters={"label": f"stoa.replica={replica['id']}"})
    assert container.labels["stoa.organization"].startswith("org_")
    assert container.attrs["HostConfig"]["NetworkMode"] == "none"

    def answered() -> str:
        with stoa.client() as sdk:
            said = sdk.chat.completions.create(
                model="own-image", messages=[{"role": "user", "content": "who are you?"}]
            )
            return str(said.choices[0].message.content)

    assert answered() == "an image answers"
    # The next agent finds it as the one before left it.
    killed = stoa.kill("agent")
    assert answered() == "an image answers"
    until(partial(stoa.restarted, "agent", killed), what="the agent is back")
    made.clear()
    listed = partial(podman.client.containers.list, all=True)
    until(lambda: not listed(filters={"label": f"stoa.replica={replica['id']}"}), what="it is gone")
