"""A real agent brings what is pulled, says how far it is, and lets go of what is not wished."""

from controlplane.fleet import wire
from tests.agent.fake_controlplane import ControlPlane
from tests.agent.fake_runner import wait_until
from tests.agent.node import TestNode


def pull(id: str, model: str) -> wire.Pull:
    return wire.Pull(pull_id=id, source=wire.SourceKind.HUB, model=model)


def test_pulls_are_followed_and_told(plane: ControlPlane, node: TestNode) -> None:
    node.agent()
    plane.change(lambda: plane.pulls.extend([pull("pul_1", "org/m"), pull("pul_2", "unknown")]))

    def told() -> dict[str, wire.PullReport]:
        return {one.pull_id: one for one in plane.reports[-1].pulls} if plane.reports else {}

    over = {wire.PullState.READY, wire.PullState.FAILED}
    wait_until(lambda: len(told()) == 2 and {one.state for one in told().values()} == over, 20)
    good, bad = told()["pul_1"], told()["pul_2"]
    assert (good.state, good.revision, good.bytes_done) == (wire.PullState.READY, "c0ffee", 7)
    assert (bad.state, bad.reason) == (wire.PullState.FAILED, "model_not_found")
    plane.change(plane.pulls.clear)
    wait_until(lambda: not told(), 20)
    # What was read of the model's files is said once.
    read = [one for report in plane.reports for one in report.models]
    assert [(one.pull_id, one.revision) for one in read] == [("pul_1", "c0ffee")]
    assert (read[0].config, read[0].tensors) == ('{"model_type": "fake"}', {})
