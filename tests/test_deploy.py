"""What deploy/ starts exists, is told only settings that exist, and is one code path everywhere."""

import configparser
import re
import tomllib
from pathlib import Path
from typing import Any

import yaml

from tests.test_layout import ROOT
from workers.agent import cli, join_script

DEPLOY = ROOT / "deploy"
SETTING = re.compile(r"\b(STOA_[A-Z_]+|DATABASE_URL|BROKER_URL)=")
# Of PostgreSQL's own container, in roles.sh.
ROLE_PASSWORDS = {f"STOA_{role}_PASSWORD" for role in ("OWNER", "APP", "GATEWAY", "BACKUP")}


def programs() -> set[str]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    return {*project["project"]["scripts"], "uvicorn", "celery"}


def units() -> dict[str, configparser.ConfigParser]:
    found = {}
    for path in sorted((DEPLOY / "systemd").glob("*.service")):
        unit = configparser.ConfigParser(interpolation=None, strict=False)
        unit.optionxform = str  # type: ignore[assignment, method-assign]
        unit.read(path)
        found[path.stem] = unit
    return found


def compose() -> dict[str, Any]:
    document: dict[str, Any] = yaml.safe_load((DEPLOY / "compose" / "compose.yml").read_text())
    return document


def test_units_start_what_the_wheel_installs() -> None:
    assert set(units()) == {
        f"stoa-{n}"
        for n in ("web", "agents", "gateway", "worker", "beat", "batches", "agent", "signer")
    }
    for name, unit in units().items():
        program = Path(unit["Service"]["ExecStart"].split()[0]).name
        assert program in programs(), name
        assert unit["Service"]["EnvironmentFile"].startswith("/etc/stoa/"), name


def test_units_are_never_given_up() -> None:
    """By default systemd lets a service rest for good that failed five times in ten seconds."""
    made = configparser.ConfigParser(interpolation=None)
    made.read_string(join_script.UNIT)
    for unit in (*units().values(), made):
        assert unit["Unit"]["StartLimitIntervalSec"] == "0"
        assert unit["Service"]["Restart"] == "always"
    for unit in (units()["stoa-agent"], made):
        assert unit["Service"]["RestartPreventExitStatus"] == str(cli.GONE)


def test_compose_starts_the_same_processes() -> None:
    services = compose()["services"]
    for name in ("web", "agents", "gateway", "worker", "beat", "batches", "signer"):
        words = services[name]["command"]
        unit = units()[f"stoa-{name}"]["Service"]["ExecStart"].split()
        assert words[0] in programs()
        assert words[0] == Path(unit[0]).name
        assert [w for w in words if w.startswith("controlplane.")] == [
            w for w in unit if w.startswith("controlplane.")
        ]
    for service in services.values():
        for volume in service.get("volumes", []):
            source = volume.split(":")[0]
            if source.startswith("./"):
                assert (DEPLOY / "compose" / source).exists(), source


def test_settings_that_deploy_names_are_documented() -> None:
    documented = (ROOT / "docs" / "settings.md").read_text()
    for path in [*DEPLOY.rglob("*.example"), *DEPLOY.rglob("*.yml"), *DEPLOY.rglob("*.service")]:
        for name in SETTING.findall(path.read_text()):
            assert name in documented or name in ROLE_PASSWORDS, f"{path.name}: {name}"


def test_the_roles_are_those_of_the_embedded_database() -> None:
    script = (DEPLOY / "compose" / "roles.sh").read_text()
    embedded = (ROOT / "workers" / "local" / "embedded.py").read_text()
    for role in ("stoa_owner", "stoa_app", "stoa_gateway"):
        assert f"CREATE ROLE {role} LOGIN" in script
        assert f'"{role}"' in embedded
    assert "btree_gist" in script
