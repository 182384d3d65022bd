"""The house's own processes on one machine, and how each is started."""

import datetime as dt
import subprocess
from pathlib import Path

from cryptography import x509

from workers.agent.processes import marked
from workers.local.installation import ROOT, Installation
from workers.local.supervisor import Process, python


def manage(*arguments: str) -> list[str]:
    return python("-m", "controlplane", *arguments)


def services(installation: Installation) -> list[Process]:
    """Web, signer, agents' door, gateway, worker, runner of batches; the agent comes on its own."""
    log = installation.var / "log"
    django = installation.django_environment()
    web = ["uvicorn", "controlplane.asgi:application", "--host", "127.0.0.1"]
    web += ["--port", str(installation.web_port), "--no-access-log", "--no-server-header"]
    web += ["--timeout-graceful-shutdown", "3"]
    worker = ["celery", "--app", "workers.celery", "worker", "--beat", "--concurrency", "2"]
    worker += ["--loglevel", "INFO", "--schedule", str(installation.var / "celerybeat-schedule")]
    return [
        Process("web", python("-m", *web), django, log / "web.log"),
        Process(
            "gateway",
            python("-m", "gateway"),
            installation.gateway_environment(),
            log / "gateway.log",
        ),
        Process(
            "signer",
            python("-m", "workers.signer"),
            installation.signer_environment(),
            log / "signer.log",
        ),
        Process("agents", manage("agents_door"), django, log / "agents.log"),
        Process("worker", python("-m", *worker), django, log / "worker.log"),
        Process("batches", manage("run_batches"), django, log / "batches.log"),
    ]


def agent(installation: Installation, enrollment_token: str = "", pin: str = "") -> Process:
    return Process(
        "agent",
        python("-m", "workers.agent", "run"),
        installation.agent_environment(enrollment_token, pin),
        installation.var / "log" / "agent.log",
        stop_timeout_s=40.0,  # it drains and stops its engines, and reports it
    )


def agent_can_start_alone(installation: Installation) -> bool:
    """Whether the agent holds a certificate that is good for a while yet."""
    path = installation.agent_dir / "certificate.pem"
    try:
        certificate = x509.load_pem_x509_certificate(path.read_bytes())
    except (OSError, ValueError):
        return False
    soon = dt.datetime.now(dt.UTC) + dt.timedelta(minutes=10)
    return certificate.not_valid_after_utc > soon


def stop_engines(installation: Installation) -> None:
    """What the agent left behind, were it killed: nothing of ours survives `make up`."""
    if marked(installation.agent_dir):
        subprocess.run(
            python("-m", "workers.agent", "stop-all"),
            env=installation.agent_environment(),
            capture_output=True,
            timeout=120,
            cwd=Path(ROOT),
        )
