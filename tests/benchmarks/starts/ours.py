"""A start on our side: from the request that creates an endpoint to its first token."""

import itertools
import os
import shutil
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any
from uuid import uuid4

from tests.benchmarks.starts.stock import first_token
from tests.flows.stoa import Stoa, until
from workers.agent import environment, kin, processes
from workers.agent.standby import Standby, StandbyError

WITHIN_S = 600.0


@dataclass
class Ours:
    """Creates endpoints of `body` and deletes them again; all begin with nothing that runs."""

    stoa: Stoa
    engine: environment.Environment
    body: dict[str, Any]
    mirror: Path  # the operator's tree of models, from which cold starts fetch
    phases: dict[str, list[dict[str, float]]] = field(default_factory=dict)  # by tier
    _numbers: "itertools.count[int]" = field(default_factory=itertools.count)

    def start(self, tier: str) -> float:
        """Seconds until the first token of a stream, which is asked for as soon as may be."""
        name = f"start-{next(self._numbers)}"
        self._quiet()
        if tier == "warm":
            self._fell_standbys()
        took, endpoint = self._create(name, **(self._unseen() if tier == "cold" else {}))
        self._note(endpoint, tier)
        self.stoa.api.delete(f"/endpoints/{endpoint}")
        return took

    def burst(self, count: int) -> list[float]:
        """The same of so many at once."""
        names = [f"burst-{next(self._numbers)}" for _ in range(count)]
        self._quiet()
        with ThreadPoolExecutor(count) as pool:
            made = list(pool.map(self._create, names))
        for _, endpoint in made:
            self.stoa.api.delete(f"/endpoints/{endpoint}")
        return [took for took, _ in made]

    def _unseen(self) -> dict[str, str]:
        """The same model under a name that no node has fetched."""
        model = f"bench/{uuid4().hex}"
        shutil.copytree(self.body["model"], self.mirror / model)
        return {"source": "mirror", "model": model}

    def _create(self, name: str, **changes: str) -> tuple[float, str]:
        with self.stoa.client() as sdk:
            began = time.monotonic()
            made = self.stoa.api.post("/endpoints", {**self.body, "name": name, **changes})
            until(lambda: first_token(sdk, name), within_s=WITHIN_S, every_s=0.005, what=name)
            return time.monotonic() - began, str(made["id"])

    def _note(self, endpoint: str, tier: str) -> None:
        def newest() -> list[dict[str, Any]]:
            told = self.stoa.api.get(f"/endpoints/{endpoint}/starts")["newest"]
            return [one for one in told if one["routed_s"] is not None]

        start = until(newest, what="the start is on record")[0]
        assert start["tier"] == tier, start
        phases = {**start["phases"], "routed": start["routed_s"]}
        self.phases.setdefault(tier, []).append(phases)

    def _quiet(self) -> None:
        """Nothing runs from before, and where there are standbys they are warm."""
        until(lambda: not self.stoa.engines(), within_s=120, what="the engines are gone")
        until(self._warm, within_s=WITHIN_S, what="a standby is warm")

    def _warm(self) -> bool:
        """Every standby that is there has imported all it is going to."""
        told = self._standbys()
        return bool(told) and all(one["warm"] for one in told)

    def _fell_standbys(self) -> None:
        """So that the next start has to do without one that is ready."""
        for one in self._standbys():
            pid = int(one["pid"])
            os.kill(pid, signal.SIGKILL)
            until(partial(_gone, pid), every_s=0.01, what="the standby is gone")

    def _standbys(self) -> list[dict[str, Any]]:
        """What each says of itself; none while one of them does not answer."""
        mine = processes.mark(self.stoa.var / "agent")[:6]
        places = Path("/run/stoa").glob(f"*/{mine}/standby/*/*/standby.sock")
        try:
            return [Standby(self.engine, place.parent).status() for place in places]
        except StandbyError:
            return []


def _gone(pid: int) -> bool:
    return kin.read(pid) is None
