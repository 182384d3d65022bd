"""`python -m workers.agent` with fake engines, for tests that kill it: argv is the command.

STOA_TEST_HANG=1: the agent stops between the start of an engine and the note of its pid, and
touches STOA_AGENT_DIR/hanging.
"""

import logging
import os
import sys
import threading

from controlplane.fleet import wire
from tests.agent.fake_runner import FakeRunner
from workers.agent import cli, inventory, records, settings
from workers.agent.client import CallError, Refused


def hang() -> None:
    (read.directory / "hanging").touch()
    threading.Event().wait()


read = settings.read()
hangs = os.environ.get("STOA_TEST_HANG") == "1"
walls = [wire.Wall.SOCKET] if os.environ.get("STOA_TEST_NO_UID") else list(wire.Wall)


def survey() -> wire.Inventory:
    missing = {wall.value: "not in this test" for wall in wire.Wall if wall not in walls}
    return inventory.collect(read, walls=walls, missing_walls=missing, engines=["fake-1"])


def main() -> int:
    logging.basicConfig(level="INFO", stream=sys.stderr)
    logging.getLogger("httpx").setLevel(logging.WARNING)
    runner = FakeRunner(read.directory, read.run_dir, before_pid=hang if hangs else lambda: None)
    try:
        match sys.argv[1]:
            case "join":
                return cli.join(read)
            case "run":
                return cli.run(read, runner=runner, survey=survey)
            case _:
                return cli.stop_all(read, runner=runner)
    except Refused as error:
        print(error, file=sys.stderr)
        return cli.REFUSED
    except records.Locked as error:
        print(error, file=sys.stderr)
        return cli.LOCKED
    except CallError as error:
        print(error, file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
