"""The first process of a host: makes it what it is, says so, and lays its dead to rest.

Alone in new namespaces; it gets one argument (`Plan` of tests/lab/host.py, as JSON). Whatever
runs on the host ends with it. Standard library alone.
"""

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path


def main() -> None:
    plan = json.loads(sys.argv[1])
    socket.sethostname(plan["name"])
    for name, value in plan["kernel"].items():
        Path("/proc/sys", *name.split(".")).write_text(value)
    for source, target, read_only in plan["binds"]:
        subprocess.run(["mount", "--rbind", source, target], check=True)
        if read_only:
            subprocess.run(["mount", "-o", "remount,bind,ro", target], check=True)
    for command in plan["commands"]:
        subprocess.run(command, check=True)
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD})
    while True:
        signal.sigwait({signal.SIGCHLD})
        _bury()


def _bury() -> None:
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        pass


if __name__ == "__main__":
    main()
