"""Real agents that bring themselves to another release: launch.py, the agent, engines that stay."""

import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from controlplane.fleet.wire import Phase
from tests.agent.fake_controlplane import ControlPlane
from tests.agent.fake_runner import wait_until
from tests.agent.node import TestNode, kill, spec
from tests.agent.releases import ENDS, HANGS, NO_INSTALLER, House, made
from workers.agent import launch

PATIENCE_S = 60.0


@pytest.fixture
def house(plane: ControlPlane, node: TestNode) -> Iterator[House]:
    yield House(plane, node)


def serving(house: House) -> tuple[str, int]:
    """A replica that serves, and its engine."""
    wish = spec()
    house.plane.want(wish)
    found = house.plane.wait_for(wish.replica_id, Phase.READY)
    return wish.replica_id, found.pid


def serves_on(house: House, replica_id: str, pid: int) -> None:
    house.plane.wait_for_applied()
    assert house.plane.wait_for(replica_id, Phase.READY).pid == pid
    assert len(house.node.engines()) == 1


def test_an_update_under_a_serving_engine(house: House) -> None:
    launcher = house.launch()
    replica_id, pid = serving(house)
    assert house.runs == house.first
    sha256, content = made("second")
    house.offer(sha256, content)
    wait_until(lambda: house.runs == sha256, PATIENCE_S)
    serves_on(house, replica_id, pid)
    wait_until(lambda: house.current == sha256[:12])
    assert not (house.home / "next.json").exists()
    assert house.plane.reports[-1].agent_version.endswith("+" + sha256[:12])
    launcher.terminate()
    assert launcher.wait(30) == 0
    house.launch()  # the machine starts again: with the new one
    count = len(house.plane.reports)
    wait_until(lambda: len(house.plane.reports) > count)
    assert house.runs == sha256
    serves_on(house, replica_id, pid)


@pytest.mark.parametrize("program", [ENDS, HANGS], ids=["ends", "never reports"])
def test_a_broken_release_goes_back_by_itself_and_is_told(house: House, program: str) -> None:
    house.launch(limit_s=3.0 if program == HANGS else 60.0)
    replica_id, pid = serving(house)
    sha256, content = made("broken", program)
    house.offer(sha256, content)
    wait_until(lambda: house.said and house.said.failed == sha256, PATIENCE_S)
    assert house.said is not None and house.runs == house.first
    assert house.said.attempt == 1
    assert ("status 9" if program == ENDS else "no report within 3 s") in house.said.why
    serves_on(house, replica_id, pid)
    # What failed is not tried again in this attempt, and a good one is taken after it.
    tries = house.node.said().count("trying it")
    good, content = made("good")
    house.offer(good, content)
    wait_until(lambda: house.runs == good, PATIENCE_S)
    assert house.node.said().count("trying it") == tries + 1
    wait_until(lambda: house.said and house.said.failed == "")
    serves_on(house, replica_id, pid)


@pytest.mark.parametrize("fault", ["other bytes", "no packages"])
def test_what_cannot_be_installed_is_told_and_never_started(house: House, fault: str) -> None:
    launcher = house.launch()
    replica_id, pid = serving(house)
    sha256, content = made("second", installer=NO_INSTALLER)
    house.offer(sha256, b"other" if fault == "other bytes" else content)
    wait_until(lambda: house.said and house.said.failed == sha256, PATIENCE_S)
    assert house.said is not None
    assert ("not what was named" if fault == "other bytes" else "no such package") in house.said.why
    assert launcher.poll() is None and "trying it" not in house.node.said()
    serves_on(house, replica_id, pid)


def test_an_agent_that_no_launcher_started_stays_as_it_is(
    plane: ControlPlane, node: TestNode
) -> None:
    node.agent()
    wait_until(lambda: plane.reports)
    assert plane.reports[0].inventory is not None and plane.reports[0].inventory.agent is None


@pytest.mark.parametrize("seed", [1, 2])
def test_killed_at_any_moment_of_an_update(house: House, seed: int) -> None:
    """kill -9 of launcher and agent, as a machine that loses power would, while it updates."""
    draw = random.Random(seed)
    launcher = house.launch()
    replica_id, pid = serving(house)
    sha256, content = made("second")
    house.offer(sha256, content)
    for _ in range(2):  # of the three starts that a release has
        let_pass(house, draw.randint(1, 12))
        kill(launcher)
        launcher = house.launch()
    wait_until(lambda: house.runs == sha256 and house.current == sha256[:12], PATIENCE_S)
    serves_on(house, replica_id, pid)


def let_pass(house: House, calls: int) -> None:
    """Wait for that many more calls of the agent: a moment as good as any."""
    until = house.plane.calls + calls
    wait_until(lambda: house.plane.calls >= until, PATIENCE_S)


def test_an_agent_ends_with_its_launcher(house: House) -> None:
    launcher = house.launch()
    serving(house)
    (agent,) = children(launcher)
    kill(launcher)
    wait_until(lambda: not Path(f"/proc/{agent}").exists() or zombie(agent))


def children(launcher: subprocess.Popen[bytes]) -> list[int]:
    listed = Path(f"/proc/{launcher.pid}/task/{launcher.pid}/children").read_text()
    return [int(pid) for pid in listed.split()]


def zombie(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


# --- launch.py's own steps ------------------------------------------------------------------


class Dead(BaseException):
    """A kill -9, as a step sees it."""


class Dying(launch.Home):
    """Dies at its n-th change of a file, before or after it."""

    def __init__(self, path: Path, at: int, after: bool) -> None:
        super().__init__(path)
        self.left, self.after = at, after

    def write(self, name: str, text: str) -> None:
        self.die(not self.after)
        super().write(name, text)
        self.die(self.after)

    def remove(self, name: str) -> None:
        self.die(not self.after)
        super().remove(name)
        self.die(self.after)

    def die(self, here: bool) -> None:
        if here:
            self.left -= 1
            if self.left < 0:
                raise Dead


def prepared(path: Path) -> launch.Home:
    for name in ("old", "new"):
        (path / "versions" / name).mkdir(parents=True)
    home = launch.Home(path)
    home.write("current", "old")
    home.write("next.json", '{"release": "new", "sha256": "n", "attempt": 4, "try": "t1"}')
    return home


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("at", range(4))
@pytest.mark.parametrize("good", [True, False])
def test_a_kill_between_any_two_steps_of_the_launcher(
    tmp_path: Path, good: bool, at: int, after: bool
) -> None:
    home = prepared(tmp_path)
    dying = Dying(tmp_path, at, after)
    try:
        release, trying = dying.choose()
        assert (release, trying["try"]) == ("new", "t1")
        if good:
            home.write("confirmed", "t1")
            dying.promote(trying)
        else:
            dying.back(trying, "it hung")
    except Dead:
        pass
    if good:
        home.write("confirmed", "t1")
    for _ in range(launch.STARTS):  # the machine comes up again, as often as it takes
        release, trying = home.choose()
        if trying and not good:
            home.back(trying, "it hung")
    assert home.choose() == ("new" if good else "old", {})
    assert not home.read("next.json")
    if not good:
        said = home.record("failed.json")
        assert (said["sha256"], said["attempt"]) == ("n", 4) and said["why"] == "it hung"


def test_a_release_that_takes_its_launcher_along_is_given_up(tmp_path: Path) -> None:
    home = prepared(tmp_path)
    for _ in range(launch.STARTS):
        assert home.choose()[0] == "new"
    assert home.choose()[0] == "old"
    assert "3 starts" in home.record("failed.json")["why"]


def test_a_release_that_is_not_there_is_not_started(tmp_path: Path) -> None:
    home = prepared(tmp_path)
    (tmp_path / "versions/new").rmdir()
    assert home.choose() == ("old", {})
    assert "not on this machine" in home.record("failed.json")["why"]


def test_what_another_try_confirmed_does_not_count(tmp_path: Path) -> None:
    home = prepared(tmp_path)
    home.write("confirmed", "t0")
    assert home.choose()[1]["try"] == "t1"
    (tmp_path / "next.json").write_text("{")  # damaged: it is none
    assert home.choose() == ("old", {})


def test_one_that_finds_the_directory_held_waits_for_it(tmp_path: Path) -> None:
    """The agent before may take a moment to go: that is no fault of the release's."""
    home = prepared(tmp_path)
    program = tmp_path / "versions/new/.venv/bin/python"
    program.parent.mkdir(parents=True)
    program.write_text(
        f"""#!/bin/sh
cd {tmp_path}
if [ -e held ]; then printf %s "$STOA_AGENT_TRY" > confirmed; sleep 0.5; exit 0; fi
touch held
exit {launch.LOCKED}
"""
    )
    program.chmod(0o755)
    done = subprocess.run([sys.executable, launch.__file__, str(tmp_path)], timeout=60)
    assert done.returncode == 0
    assert home.choose() == ("new", {}) and not home.record("failed.json")


def test_the_join_script_has_the_last_word(tmp_path: Path) -> None:
    home = prepared(tmp_path)
    _, trying = home.choose()
    home.remove("next.json")  # joined again, while it was tried
    home.promote(trying)
    assert home.choose() == ("old", {})
