"""python -m workers.local up

`stoa …` is the command line with what the installation started here is told.
"""

import argparse
import subprocess
import sys

from workers.local.api import ApiError
from workers.local.demo import DemoError
from workers.local.embedded import ServerError
from workers.local.installation import ROOT, Installation, SettingError
from workers.local.screen import Screen
from workers.local.up import UpError, up


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m workers.local", description=__doc__)
    parser.add_argument("command", choices=("up", "stoa"))
    parser.add_argument("words", nargs=argparse.REMAINDER, help="of `stoa`, such as evidence demo")
    given = parser.parse_args()
    screen = Screen()
    if given.command == "stoa":
        environment = Installation.from_environment().django_environment()
        return subprocess.run(
            [sys.executable, "manage.py", *given.words], env=environment, cwd=ROOT
        ).returncode
    try:
        up(Installation.from_environment(), screen)
    except (UpError, DemoError, ApiError, ServerError, SettingError) as error:
        screen.say(f"stoa cannot start: {error}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
