"""python -m workers.local up"""

import argparse
import sys

from workers.local.api import ApiError
from workers.local.demo import DemoError
from workers.local.embedded import ServerError
from workers.local.installation import Installation, SettingError
from workers.local.screen import Screen
from workers.local.up import UpError, up


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m workers.local", description=__doc__)
    parser.add_argument("command", choices=("up",))
    parser.parse_args()
    screen = Screen()
    try:
        up(Installation.from_environment(), screen)
    except (UpError, DemoError, ApiError, ServerError, SettingError) as error:
        screen.say(f"stoa cannot start: {error}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
