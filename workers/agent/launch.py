"""Keeps the agent running from the release that counts, and goes back when a new one is no good.

    python3 HOME/launch.py HOME

Copied beside the releases and changed with none of them: standard library alone, and little of it.
HOME/versions has the releases. HOME/current names the one that counts. HOME/next.json, which the
agent writes before it ends with RESTART, names one to try: it counts once its agent has written
the try's id into HOME/confirmed, after its first report that was answered. If it ends before, or
does not report in time, HOME/failed.json says so, and the one before runs again. Engines run on.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import FrameType
from typing import Any

RESTART = 75  # the agent's exit status: start again, from what is to be tried
LOCKED = 5  # another agent is about to leave the directory
LIMIT_S = 180.0  # from the start of a release that is tried to its first answered report
STARTS = 3  # of a release that is tried: machines and launchers die for other reasons, too
_LOOK_S = 0.1
_PR_SET_PDEATHSIG = 1  # of prctl(2)


class Home:
    """The files. Each is replaced in one step, so that a kill leaves the old one or the new."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    def read(self, name: str) -> str:
        try:
            return (self.path / name).read_text().strip()
        except OSError:
            return ""

    def record(self, name: str) -> dict[str, Any]:
        """{} where there is none that can be read."""
        try:
            found = json.loads(self.read(name))
        except ValueError:
            found = None
        return found if isinstance(found, dict) else {}

    def write(self, name: str, text: str) -> None:
        draft = self.path / (name + ".new")
        with draft.open("w") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(self.path / name)

    def remove(self, name: str) -> None:
        (self.path / name).unlink(missing_ok=True)

    def choose(self) -> tuple[str, dict[str, Any]]:
        """The release to run, and the try that this is: {} where it is the one that counts."""
        trying = self.record("next.json")
        if trying and self.confirmed(trying):
            self.promote(trying)
        elif trying and self.record("failed.json").get("try") == trying.get("try"):
            self.remove("next.json")
        elif trying and not (self.path / "versions" / str(trying.get("release"))).is_dir():
            self.back(trying, "it is not on this machine")
        elif trying and trying.get("starts", 0) >= STARTS:
            self.back(trying, f"it did not come up in {STARTS} starts")
        elif trying:
            trying["starts"] = trying.get("starts", 0) + 1
            self.write("next.json", json.dumps(trying))
            return str(trying["release"]), trying
        return self.read("current"), {}

    def confirmed(self, trying: dict[str, Any]) -> bool:
        return bool(trying.get("try")) and self.read("confirmed") == trying["try"]

    def promote(self, trying: dict[str, Any]) -> None:
        if self.record("next.json").get("try") == trying["try"]:  # else the join script was here
            self.write("current", trying["release"])
            self.remove("next.json")

    def back(self, trying: dict[str, Any], why: str) -> None:
        said = {name: trying.get(name) for name in ("try", "release", "sha256", "attempt")}
        self.write("failed.json", json.dumps({**said, "why": why}))
        self.remove("next.json")
        say(f"{trying.get('release')}: {why}: back to {self.read('current')}")


class Launcher:
    def __init__(self, home: Home, limit_s: float = LIMIT_S) -> None:
        self.home, self.limit_s, self.stopping = home, limit_s, False
        self.child: subprocess.Popen[bytes] | None = None

    def run(self) -> int:
        """The exit status of the agent that ended for another reason than a release."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self.stop)
        while True:
            release, trying = self.home.choose()
            if not release:
                sys.exit(f"launch: {self.home.path}/current names no release: join again")
            status = self.serve(release, trying)
            if self.stopping or status != RESTART:
                return status

    def stop(self, number: int, _frame: FrameType | None) -> None:
        self.stopping = True
        if self.child is not None and self.child.poll() is None:
            self.child.send_signal(number)

    def serve(self, release: str, trying: dict[str, Any]) -> int:
        """Run it to its end. RESTART too when it was tried in vain."""
        until = time.monotonic() + self.limit_s
        self.start(release, trying)
        while True:
            status = self.wait()
            if trying and self.home.confirmed(trying):
                self.home.promote(trying)
                trying = {}
            if not trying or self.stopping:
                if status is not None:
                    return status
                continue
            if status == LOCKED and time.monotonic() < until:
                time.sleep(1)
                self.start(release, trying)
            elif status is not None and status != RESTART:
                self.home.back(trying, f"its agent ended with status {status}")
                return RESTART
            elif time.monotonic() >= until:
                self.end()
                self.home.back(trying, f"no report within {self.limit_s:g} s")
                return RESTART
            elif status is not None:
                return status

    def start(self, release: str, trying: dict[str, Any]) -> None:
        root = self.home.path / "versions" / release
        env = {
            **os.environ,
            "PYTHONPATH": f"{root}:{root / 'platform'}",
            "STOA_AGENT_HOME": str(self.home.path),
            "STOA_AGENT_TRY": trying.get("try", ""),
        }
        command = [str(root / ".venv" / "bin" / "python"), "-m", "workers.agent", "run"]
        if self.stopping:
            sys.exit(0)
        try:
            self.child = subprocess.Popen(command, env=env, preexec_fn=_die_with_us)
        except OSError as error:
            say(f"{release} cannot be started: {error}")
            self.child = subprocess.Popen([sys.executable, "-c", "raise SystemExit(1)"])

    def wait(self) -> int | None:
        """The child's exit status; None while it runs."""
        assert self.child is not None
        try:
            return self.child.wait(_LOOK_S)
        except subprocess.TimeoutExpired:
            return None

    def end(self) -> None:
        """Killed: asked to leave, it might take engines along, which the one before adopts."""
        assert self.child is not None
        self.child.kill()
        self.child.wait()


def _die_with_us() -> None:
    """An agent without its launcher would keep the next one's out."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def say(text: str) -> None:
    print("launch: " + text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    limit_s = float(os.environ.get("STOA_AGENT_TRY_S") or LIMIT_S)
    sys.exit(Launcher(Home(sys.argv[1]), limit_s).run())
