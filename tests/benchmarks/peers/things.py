"""The peers: how each is installed and started in front of the canned upstream."""

import json
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import httpx

from tests.benchmarks.peers import install
from tests.benchmarks.peers.install import NGINX
from tests.benchmarks.peers.processes import PeerError, Program
from tests.benchmarks.peers.upstream import MODEL, Upstream, question, temporary
from tests.benchmarks.peers.wrk import PATH, Request
from workers.local.embedded import free_port
from workers.local.screen import Screen

logging.getLogger("httpx").setLevel(logging.WARNING)

START_S = 90.0
SECRET = "sk-bench-1234567890"


@dataclass
class Thing:
    """Something that runs in front of the upstream."""

    name: str
    version: str
    port: int
    program: Program
    headers: dict[str, str] = field(default_factory=dict)
    connections: int = 64  # that keep it busy
    least_s: float = 0.0  # that a round must last for enough answers

    def request(self, content: str, *, stream: bool = False) -> Request:
        return Request(question(content, stream=stream), self.headers)

    def wait(self) -> "Thing":
        """Until it answers a whole request. Raises PeerError."""
        deadline, why = time.monotonic() + START_S, "it does not answer"
        while time.monotonic() < deadline:
            if ended := self.program.ended():
                raise PeerError(ended)
            try:
                got = httpx.post(
                    f"http://127.0.0.1:{self.port}{PATH}",
                    content=question("hello"),
                    headers={"Content-Type": "application/json", **self.headers},
                    timeout=10,
                )
                if got.status_code == 200 and got.json()["usage"]["completion_tokens"] == 9:
                    return self
                why = f"{got.status_code}: {got.text[:200]}"
            except (httpx.TransportError, ValueError, KeyError) as error:
                why = repr(error)
            time.sleep(0.2)
        self.program.stop()
        raise PeerError(why)


Starter = Callable[[Upstream, Path, Screen], Thing]

_NGINX = """\
worker_processes 1; daemon off; pid {folder}/proxy.pid; error_log {folder}/proxy.err;
events {{ worker_connections 65536; }}
http {{
  access_log off; keepalive_requests 100000000; client_body_buffer_size 256k; {temporary}
  upstream engines {{ {servers} keepalive 512; keepalive_requests 100000000; }}
  server {{
    listen 127.0.0.1:{port} backlog=8192;
    location / {{
      proxy_pass http://engines; proxy_http_version 1.1; proxy_set_header Connection "";
      proxy_buffering off; proxy_read_timeout 3600s;
    }}
  }}
}}
"""


def nginx(upstream: Upstream, folder: Path, screen: Screen) -> Thing:
    """A bare reverse proxy with one worker, over the same unix sockets as ours."""
    port, config = free_port(), folder / "proxy.conf"
    servers = " ".join(f"server unix:{path};" for path in upstream.sockets)
    config.write_text(
        _NGINX.format(folder=folder, port=port, servers=servers, temporary=temporary(folder))
    )
    program = Program.start([NGINX, "-c", str(config)], folder / "nginx.log")
    return Thing("nginx", install.version([NGINX, "-v"]), port, program).wait()


def vllm_router(
    upstream: Upstream, folder: Path, screen: Screen, policy: str = "cache_aware"
) -> Thing:
    """With its own default, prefix routing over the four replicas: as ours."""
    binary, port = install.python(install.VLLM_ROUTER, screen) / "vllm-router", free_port()
    command = [str(binary), "--host", "127.0.0.1", "--port", str(port), "--policy", policy]
    command += ["--log-level", "error", "--prometheus-port", str(free_port()), "--worker-urls"]
    command += [f"http://127.0.0.1:{each}" for each in upstream.ports]
    program = Program.start(command, folder / f"vllm-router.{policy}.log")
    return Thing("vllm-router", install.VLLM_ROUTER.partition("==")[2], port, program).wait()


def vllm_router_in_turn(upstream: Upstream, folder: Path, screen: Screen) -> Thing:
    """Without prefix routing: the least that it can do."""
    thing = vllm_router(upstream, folder, screen, "round_robin")
    thing.name = "vllm-router-round-robin"
    return thing


def litellm(upstream: Upstream, folder: Path, screen: Screen) -> Thing:
    """Its proxy with a master key and no database: less than ours does."""
    binary, port = install.python(install.LITELLM, screen) / "litellm", free_port()
    replicas = [
        {
            "model_name": MODEL,
            "litellm_params": {
                "model": f"openai/{MODEL}",
                "api_base": f"http://127.0.0.1:{each}/v1",
                "api_key": "none",
            },
        }
        for each in upstream.ports
    ]
    # YAML reads JSON.
    config = folder / "litellm.yaml"
    config.write_text(
        json.dumps({"model_list": replicas, "general_settings": {"master_key": SECRET}})
    )
    command = [str(binary), "--config", str(config), "--host", "127.0.0.1", "--port", str(port)]
    env = {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "LITELLM_LOG": "ERROR"}
    program = Program.start(
        [*command, "--num_workers", "1", "--telemetry", "False"], folder / "litellm.log", env
    )
    version = install.LITELLM.partition("==")[2]
    bearer = {"Authorization": f"Bearer {SECRET}"}
    return Thing("litellm", version, port, program, bearer, connections=16, least_s=6).wait()


def portkey(upstream: Upstream, folder: Path, screen: Screen) -> Thing:
    """Its open-source gateway: no keys, no budgets; one upstream, named by a header."""
    package = install.npm(install.PORTKEY, install.PORTKEY_OVERRIDES, screen)
    port = free_port()
    command = ["node", str(package / "build" / "start-server.js"), f"--port={port}", "--headless"]
    program = Program.start(command, folder / "portkey.log", {"NODE_ENV": "production"})
    headers = {
        "Authorization": f"Bearer {SECRET}",
        "x-portkey-provider": "openai",
        "x-portkey-custom-host": f"http://127.0.0.1:{upstream.ports[0]}/v1",
    }
    return Thing("portkey", install.npm_version(package), port, program, headers).wait()


PEERS: dict[str, Starter] = {
    "nginx": nginx,
    "vllm-router": vllm_router,
    "vllm-router-round-robin": vllm_router_in_turn,
    "portkey": portkey,
    "litellm": litellm,
}
