"""Each process of `make up` is told what it needs, and as whom it may speak to the database."""

from pathlib import Path

import pytest

from workers.local import processes
from workers.local.installation import Installation

SECRETS = {"STOA_SECRET_KEY", "STOA_KEY_PEPPER", "STOA_MASTER_KEY", "STOA_KMS_PASSPHRASE"}


@pytest.fixture
def installation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Installation:
    for name in (*SECRETS, "DATABASE_URL", "BROKER_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("STOA_VAR_DIR", str(tmp_path / "var"))
    return Installation.from_environment()


def user(url: str) -> str:
    return url.removeprefix("postgresql://").partition(":")[0]


def test_the_house_runs_as_the_app_and_the_gateway_as_itself(installation: Installation) -> None:
    services = {process.name: process.env for process in processes.services(installation)}
    assert services.keys() == {"web", "agents", "gateway", "worker", "batches", "signer"}
    for name in ("web", "agents", "worker", "batches"):
        assert user(services[name]["DATABASE_URL"]) == "stoa_app"
        assert services[name].keys() >= SECRETS
    gateway = services["gateway"]
    assert user(gateway["STOA_GATEWAY_DATABASE_URL"]) == "stoa_gateway"
    assert SECRETS & gateway.keys() == {"STOA_KEY_PEPPER"}
    assert not {"DATABASE_URL", "BROKER_URL"} & gateway.keys()
    assert not {"DATABASE_URL", "BROKER_URL", *SECRETS} & services["signer"].keys()
    for name in ("STOA_LOG_ORIGIN", "STOA_SIGNER_SOCKET"):
        assert services["signer"][name] == services["web"][name]


def test_the_agent_holds_no_credential_but_its_own(installation: Installation) -> None:
    agent = processes.agent(installation, "stoa-enroll-x").env
    assert agent["STOA_AGENT_TOKEN"] == "stoa-enroll-x"
    assert not {"DATABASE_URL", "BROKER_URL", *SECRETS} & agent.keys()
    known = {path.read_text() for path in (installation.var / "secrets").glob("*")}
    assert not known & set(agent.values())


def test_secrets_are_their_owners_alone(installation: Installation) -> None:
    processes.services(installation)
    folder = installation.var / "secrets"
    assert folder.stat().st_mode & 0o777 == 0o700
    assert {path.stat().st_mode & 0o777 for path in folder.iterdir()} == {0o600}
