"""One command joins a machine from nothing: no file of ours, a bare Python, and the command."""

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.figures import figure
from tests.flows.conftest import Made
from tests.flows.nodes import REGION, Operator, admit_gateway
from tests.flows.stoa import Stoa, until
from workers.local.embedded import free_port

pytestmark = [pytest.mark.engine, pytest.mark.xdist_group("flows")]

# Of a machine: who it is, and where its packages come from. Nothing of ours.
_MACHINE = ("PATH", "LANG", "TMPDIR", "SSL_CERT_FILE", "HTTPS_PROXY", "NO_PROXY")


def machine(stoa: Stoa, root: Path) -> dict[str, str]:
    """A machine's environment: its home is empty; engines' environments are cached by content."""
    env = {name: value for name, value in os.environ.items() if name in _MACHINE}
    env |= {name: value for name, value in os.environ.items() if name.startswith(("PIP_", "UV_"))}
    # The operator's package cache, as pip's own configuration names it.
    configured = Path.home() / ".config" / "pip" / "pip.conf"
    if configured.exists():
        env.setdefault("PIP_CONFIG_FILE", str(configured))
    return env | {
        "HOME": str(root),
        "STOA_CACHE_DIR": stoa.env.get("STOA_CACHE_DIR", ""),
        "STOA_AGENT_DIR": str(root / "state"),
        "STOA_AGENT_RUN_DIR": str(root / "run"),
        "STOA_AGENT_NAME": "from-nothing",
        "STOA_AGENT_DEVICES": "cpu:1",
        "STOA_AGENT_RELAY": f"127.0.0.1:{free_port()}",
        "STOA_AGENT_STOP_ENGINES": "1",
    }


def start(command: str, root: Path, env: dict[str, str], *more: str) -> subprocess.Popen[bytes]:
    """As a person types it there, with the Python of the system."""
    words = shlex.split(command)
    assert words[:2] == ["python3", "-c"]
    python = str(Path(sys.base_prefix) / "bin" / "python3")
    argv = [python, "-I", *words[1:], "--directory", str(root / "agent"), *more]
    with (root / "join.out").open("ab") as output:
        return subprocess.Popen(argv, env=env, cwd=root, stdout=output, stderr=output)


@pytest.fixture
def root() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="sj-", dir="/tmp") as folder:
        yield Path(folder)


def _devices(stoa: Stoa, pool: str) -> int:
    mine = [one for one in stoa.api.get("/pools")["data"] if one["id"] == pool]
    return sum(device["free"] for one in mine for device in one["devices"])


def said(root: Path) -> str:
    return (root / "join.out").read_text(errors="replace")


def test_from_nothing_to_a_first_token(stoa: Stoa, made: Made, root: Path) -> None:
    env = machine(stoa, root)
    with Operator(stoa) as operator:
        owner = stoa.api.endpoint("hello")["organization"]
        pool = operator.post("/pools", {"region": REGION, "name": "join", "organization": owner})
        token = operator.post("/enrollment-tokens", {"pool": pool["id"]})
        admit_gateway(stoa)
        began = time.monotonic()
        joining = start(token["command"], root, env)
        try:
            until(lambda: _devices(stoa, pool["id"]), within_s=300, what=f"a device: {said(root)}")
            endpoint = made("joined", pool=pool["id"])
            made.await_status(endpoint["id"], "ready")
            with stoa.client() as sdk:
                answer = sdk.completions.create(model="joined", prompt="import os", max_tokens=4)
            first_token_s = time.monotonic() - began
            assert answer.usage is not None and answer.usage.completion_tokens > 0
            figure("join.first_token_s", first_token_s, "s")
            print(said(root))
            (node,) = operator.nodes(pool["id"]).values()
            assert node["name"] == "from-nothing" and "+" in node["agent_version"]

            # Again on the machine that has joined: nothing is done twice, the token is not needed.
            again = start(token["command"], root, env, "--no-run")
            assert again.wait(120) == 0, said(root)
            assert "has joined already" in said(root)
            assert len(operator.nodes(pool["id"])) == 1
        finally:
            joining.send_signal(signal.SIGTERM)
            joining.wait(60)
            shutil.rmtree(root / "agent", ignore_errors=True)
        operator.delete(f"/nodes/{node['id']}")


def test_a_script_and_a_control_plane_that_are_not_those_of_the_command(
    stoa: Stoa, root: Path
) -> None:
    env = machine(stoa, root)
    with Operator(stoa) as operator:
        owner = stoa.api.endpoint("hello")["organization"]
        wish = {"region": REGION, "name": "join-refused", "organization": owner}
        token = operator.post("/enrollment-tokens", {"pool": operator.post("/pools", wish)["id"]})
    digest = token["pin"].removeprefix("sha256:")
    other = digest[::-1]
    wrong_pin = token["command"].replace(digest, other)
    assert start(wrong_pin, root, env).wait(60) != 0
    assert "404" in said(root)
    wrong_script = re.sub("[0-9a-f]{64}", "0" * 64, token["command"], count=1)
    assert wrong_script != token["command"]
    assert start(wrong_script, root, env).wait(60) != 0
    until(lambda: "not the script of this command" in said(root), within_s=5)
    assert not (root / "agent" / "versions").exists()
