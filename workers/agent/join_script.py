"""Joins a machine that has Python and nothing of ours. The control plane hands this file out; the
join command holds its hash and the hash of the region's authority, and nothing else is trusted.

    --url https://HOST:PORT --pin sha256:… --token stoa-enroll-…   [--directory D] [--rejoin]
    [--no-run]

Standard library alone. Run again, on a half-joined or a joined machine, it goes on where it is.
Packages come from the index that pip or uv is configured with (PIP_*, UV_*), hash-checked.
"""

import argparse
import hashlib
import http.client
import io
import json
import os
import shutil
import socket
import ssl
import subprocess
import sys
import tarfile
import time
from pathlib import Path
from typing import NoReturn
from urllib.parse import urlsplit

DOMAIN = "controlplane.replica.stoa"  # wire.DOOR_DOMAIN
TIMEOUT_S = 60
# What says where packages come from; the service installs engines, so it must know.
NETWORK = ("PIP_", "UV_", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "SSL_CERT_")
UNIT = """[Unit]
Description=Stoa node agent
After=network-online.target
Wants=network-online.target
StartLimitIntervalSec=0

[Service]
EnvironmentFile=/etc/stoa/agent.env
ExecStart={python} {home}/launch.py {home}
Restart=always
RestartSec=1
# A node that was removed, or has left for good, is not asked again.
RestartPreventExitStatus=4
# Engines outlive the agent: the next one, of whatever release, adopts them.
KillMode=process
LimitNOFILE=65536

[Install]
WantedBy=multi-user.target
"""
BEGAN = time.monotonic()


def main() -> None:
    options = _options()
    home = Path(options.directory).absolute()
    home.mkdir(parents=True, exist_ok=True)
    door = Door(options.url, options.pin)
    say(f"the control plane is the one that the pin names, at {options.url}")
    root = unpack(home, door)
    python = environment(root)
    count(home, root)
    settings = {
        **{name: value for name, value in os.environ.items() if name.startswith("STOA_")},
        "PYTHONPATH": f"{root}:{root / 'platform'}",
        "STOA_CONTROLPLANE_URL": options.url,
        "STOA_CONTROLPLANE_PIN": options.pin,
    }
    if options.name:
        settings["STOA_AGENT_NAME"] = options.name
    examine(python, settings)
    join(python, settings, options)
    if not options.no_run:
        run(home, settings)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="join")
    where = "/opt/stoa-agent" if os.geteuid() == 0 else str(Path.home() / ".local/share/stoa-agent")
    parser.add_argument("--url", required=True)
    parser.add_argument("--pin", required=True)
    parser.add_argument("--token", default=os.environ.get("STOA_AGENT_TOKEN", ""))
    parser.add_argument("--name", default="")
    parser.add_argument("--directory", default=where)
    parser.add_argument("--rejoin", action="store_true", help="with a new key, as a known node")
    parser.add_argument("--no-run", action="store_true", help="join, and leave the start to you")
    return parser.parse_args()


class Door:
    """The control plane, proved by the hash of its region's authority."""

    def __init__(self, url: str, pin: str) -> None:
        parts = urlsplit(url)
        if parts.scheme != "https" or not parts.hostname:
            stop(f"--url {url}: expected https://HOST:PORT")
        self._where = (parts.hostname or "", parts.port or 443)
        digest = pin.removeprefix("sha256:").lower()
        unproved = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        unproved.check_hostname, unproved.verify_mode = False, ssl.CERT_NONE
        self._context, self._name = unproved, self._where[0]
        _, _, pem = self.get(f"/agent/v1/authority/{digest}")
        try:
            found = hashlib.sha256(ssl.PEM_cert_to_DER_cert(pem.decode().strip())).hexdigest()
        except ValueError:
            found = ""
        if found != digest:
            stop(f"{url} is not the control plane that the pin names: ask for a new join command")
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        self._context.load_verify_locations(cadata=pem.decode())
        self._name = f"ca-{digest[:40]}.{DOMAIN}"

    def get(self, path: str) -> "tuple[int, http.client.HTTPMessage, bytes]":
        try:
            plain = socket.create_connection(self._where, TIMEOUT_S)
            connection = http.client.HTTPConnection(*self._where, timeout=TIMEOUT_S)
            connection.sock = self._context.wrap_socket(plain, server_hostname=self._name)
            connection.request("GET", path)
            answer = connection.getresponse()
            content = answer.read()
            connection.close()
        except OSError as error:
            stop(f"{self._where[0]} port {self._where[1]}: {error}")
        if answer.status != 200:
            stop(f"{path}: the control plane answers HTTP {answer.status}: {content[:300]!r}")
        return answer.status, answer.headers, content


def unpack(home: Path, door: Door) -> Path:
    """The agent's files, in a folder named by their hash."""
    _, headers, content = door.get("/agent/v1/bundle")
    digest = hashlib.sha256(content).hexdigest()
    if headers.get("x-stoa-bundle") != digest:
        stop("the agent's bundle came in pieces: run this again")
    root = home / "versions" / digest[:12]
    if not (root / "BUNDLE").exists():
        shutil.rmtree(root, ignore_errors=True)
        root.mkdir(parents=True)
        with tarfile.open(fileobj=io.BytesIO(content)) as archive:
            for entry in archive:
                place = root / entry.name
                if not entry.isfile() or root not in place.resolve().parents:
                    stop(f"the bundle holds {entry.name!r}, which no bundle of ours does")
                place.parent.mkdir(parents=True, exist_ok=True)
                read = archive.extractfile(entry)
                assert read is not None
                place.write_bytes(read.read())
        (root / "BUNDLE").write_text(digest)
    say(f"the agent's files are here, version {digest[:12]}")
    return root


def environment(root: Path) -> Path:
    """Python of the agent's environment, made from its hashed lock."""
    done = subprocess.run([sys.executable, str(root / "deploy" / "bootstrap.py"), "agent"])
    if done.returncode:
        stop("the agent's packages could not be installed: mend what is said above, and run again")
    say("the agent's packages are installed")
    return root / ".venv" / "bin" / "python"


def count(home: Path, root: Path) -> None:
    """The release that launch.py runs is this one; one that is being tried is given up."""
    (home / "next.json").unlink(missing_ok=True)
    for name, content in (
        ("launch.py", (root / "workers/agent/launch.py").read_bytes()),
        ("current", root.name.encode()),
    ):
        draft = home / f".{name}.new"
        draft.write_bytes(content)
        draft.replace(home / name)


def examine(python: Path, settings: "dict[str, str]") -> None:
    """What the doctor finds critical must be mended first."""
    done = agent(python, settings, "doctor", "--json", capture=True)
    try:
        found = json.loads(done.stdout)["findings"]
    except (ValueError, KeyError):
        stop(f"the doctor has no answer:\n{done.stderr.decode(errors='replace')[-2000:]}")
    # That it has not joined is no news here.
    told = [one for one in found if one["check"] != "credential"]
    critical = [one for one in told if one.get("refuses") and not one["ok"]]
    for one in told:
        severity = "info" if one["ok"] else "critical" if one in critical else "warning"
        if severity != "info":
            print(f"  {severity} {one['check']}: {one['text']}", flush=True)
            if one.get("cure"):
                print(f"    cure: {one['cure']}", flush=True)
    if critical:
        stop("this machine cannot serve yet: mend what is critical, and run this again")
    say("the doctor has no objection")


def join(python: Path, settings: "dict[str, str]", options: argparse.Namespace) -> None:
    if not options.rejoin and agent(python, settings, "joined", capture=True).returncode == 0:
        say("this machine has joined already")
        return
    if not options.token:
        stop("--token is missing")
    # The doctor has been asked just now, and disks are not measured twice.
    done = agent(python, {**settings, "STOA_AGENT_TOKEN": options.token}, "join", "--anyway")
    if done.returncode:
        stop("it did not join")
    say("joined")


def run(home: Path, settings: "dict[str, str]") -> None:
    settings = {name: text for name, text in settings.items() if name != "PYTHONPATH"}
    if os.geteuid() == 0 and Path("/run/systemd/system").is_dir():
        env = Path("/etc/stoa/agent.env")
        env.parent.mkdir(parents=True, exist_ok=True)
        env.touch(mode=0o600)
        env.write_text(service_environment(settings))
        unit = Path("/etc/systemd/system/stoa-agent.service")
        unit.write_text(UNIT.format(python=sys.executable, home=home))
        for words in (["daemon-reload"], ["enable", "stoa-agent"], ["restart", "stoa-agent"]):
            if subprocess.run(["systemctl", *words]).returncode:
                stop(f"systemctl {' '.join(words)} failed")
        say("the agent runs as a service: journalctl -u stoa-agent")
        return
    say("no systemd here: the agent runs until this ends")
    command = [sys.executable, str(home / "launch.py"), str(home)]
    os.execve(command[0], command, _environment(settings))


def service_environment(settings: "dict[str, str]") -> str:
    """As systemd reads it; pip's settings may be lists by lines, which spaces part as well."""
    told = {name: text for name, text in os.environ.items() if name.upper().startswith(NETWORK)}
    lines = {name: " ".join(text.split()) for name, text in told.items()} | settings
    return "".join(f"{name}={text}\n" for name, text in sorted(lines.items()))


def agent(
    python: Path, settings: "dict[str, str]", *words: str, capture: bool = False
) -> "subprocess.CompletedProcess[bytes]":
    command = [str(python), "-m", "workers.agent", *words]
    return subprocess.run(command, env=_environment(settings), capture_output=capture)


def _environment(settings: "dict[str, str]") -> "dict[str, str]":
    return {**os.environ, **settings}


def say(text: str) -> None:
    print(f"[{time.monotonic() - BEGAN:6.1f} s] {text}", flush=True)


def stop(text: str) -> NoReturn:
    sys.exit(f"join: {text}")


if __name__ == "__main__":
    main()
