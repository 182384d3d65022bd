"""Where an embedded installation keeps things, and what each process is told.

Everything lies under one folder (`var/`): databases, secrets, logs, the agent's and the
gateway's state. Ports come from the environment; each has one setting.
"""

import base64
import hashlib
import os
import secrets
from dataclasses import dataclass
from pathlib import Path

from workers.local.embedded import Postgres, Valkey

ROOT = Path(__file__).resolve().parents[2]

# setting -> default port
PORTS = {
    "STOA_WEB_PORT": 8000,
    "STOA_GATEWAY_PORT": 8080,
    "STOA_AGENTS_PORT": 8443,
    "STOA_POSTGRES_PORT": 15432,
    "STOA_VALKEY_PORT": 16379,
}


class SettingError(Exception):
    """A setting is unusable; the message names it."""


def _port(name: str) -> int:
    value = os.environ.get(name) or str(PORTS[name])
    if not value.isdecimal() or not 0 < int(value) < 65536:
        raise SettingError(f"{name}={value}: expected a port from 1 to 65535")
    return int(value)


@dataclass(frozen=True)
class Installation:
    var: Path
    web_port: int
    gateway_port: int
    agents_port: int
    postgres: Postgres | None  # None: DATABASE_URL names another
    valkey: Valkey | None  # None: BROKER_URL names another

    @classmethod
    def from_environment(cls) -> "Installation":
        var = Path(os.environ.get("STOA_VAR_DIR") or ROOT / "var").absolute()
        logs = var / "log"
        postgres = valkey = None
        if not os.environ.get("DATABASE_URL"):
            postgres = Postgres(var / "pg", _port("STOA_POSTGRES_PORT"), logs / "postgres.log")
        if not os.environ.get("BROKER_URL"):
            valkey = Valkey(var / "valkey", _port("STOA_VALKEY_PORT"), logs / "valkey.log")
        ports = (_port("STOA_WEB_PORT"), _port("STOA_GATEWAY_PORT"), _port("STOA_AGENTS_PORT"))
        return cls(var, *ports, postgres, valkey)

    @property
    def console_url(self) -> str:
        return f"http://127.0.0.1:{self.web_port}"

    @property
    def gateway_url(self) -> str:
        return f"http://127.0.0.1:{self.gateway_port}"

    @property
    def agents_url(self) -> str:
        return f"https://127.0.0.1:{self.agents_port}"

    @property
    def run_file(self) -> Path:
        return self.var / "run.json"

    @property
    def agent_dir(self) -> Path:
        return self.var / "agent"

    def ports(self) -> dict[str, int]:
        """The ports that this installation will listen on, by their setting."""
        ports = {
            "STOA_WEB_PORT": self.web_port,
            "STOA_GATEWAY_PORT": self.gateway_port,
            "STOA_AGENTS_PORT": self.agents_port,
        }
        if self.postgres:
            ports["STOA_POSTGRES_PORT"] = self.postgres.port
        if self.valkey:
            ports["STOA_VALKEY_PORT"] = self.valkey.port
        return ports

    def database_url(self, role: str) -> str:
        """The database as one of stoa_owner, stoa_app, stoa_gateway.

        An outside database has one URL for all, or one for each role:
        DATABASE_URL, STOA_OWNER_DATABASE_URL, STOA_GATEWAY_DATABASE_URL.
        """
        if self.postgres:
            return self.postgres.url(role)
        special = {
            "stoa_owner": "STOA_OWNER_DATABASE_URL",
            "stoa_gateway": "STOA_GATEWAY_DATABASE_URL",
        }
        return os.environ.get(special.get(role, "DATABASE_URL")) or os.environ["DATABASE_URL"]

    def broker_url(self) -> str:
        return self.valkey.url if self.valkey else os.environ["BROKER_URL"]

    # --- what each process is told ---------------------------------------------------

    def django_environment(self, role: str = "stoa_app") -> dict[str, str]:
        return {
            **_inherited(),
            "DJANGO_SETTINGS_MODULE": "controlplane.settings",
            "DATABASE_URL": self.database_url(role),
            "BROKER_URL": self.broker_url(),
            "STOA_SECRET_KEY": self._secret("secret_key"),
            "STOA_KEY_PEPPER": self._secret("key_pepper"),
            "STOA_MASTER_KEY": self._secret("master_key"),
            "STOA_KMS_PASSPHRASE": self._secret("kms_passphrase"),
            "STOA_KMS_PATH": os.environ.get("STOA_KMS_PATH")
            or str(self.var / "secrets" / "kek.json"),
            "STOA_VAR_DIR": str(self.var),
            "STOA_AGENTS_PORT": str(self.agents_port),
            **self._signer(),
            **self._backups(),
        }

    def _signer(self) -> dict[str, str]:
        """What signer and control plane have to agree on."""
        return {
            "STOA_LOG_ORIGIN": os.environ.get("STOA_LOG_ORIGIN") or "localhost",
            "STOA_SIGNER_SOCKET": str(self._run_dir() / "signer" / "socket"),
        }

    def signer_environment(self) -> dict[str, str]:
        return {**_inherited(), **self._signer(), "STOA_SIGNER_DIR": str(self.var / "signer")}

    def _backups(self) -> dict[str, str]:
        """Who reads the database for backups, and which gateways' spools are on this machine."""
        gateways = os.environ.get("STOA_BACKUP_GATEWAYS") or str(self.var / "gateway")
        url = os.environ.get("STOA_BACKUP_DATABASE_URL", "")
        if self.postgres:
            url = self.postgres.url("stoa_backup")
        signer = os.environ.get("STOA_BACKUP_SIGNER") or str(self.var / "signer")
        return {"STOA_BACKUP_GATEWAYS": gateways, "STOA_BACKUP_SIGNER": signer} | (
            {"STOA_BACKUP_DATABASE_URL": url} if url else {}
        )

    def gateway_environment(self) -> dict[str, str]:
        return {
            **_inherited(),
            "STOA_GATEWAY_DATABASE_URL": self.database_url("stoa_gateway"),
            "STOA_KEY_PEPPER": self._secret("key_pepper"),
            "STOA_GATEWAY_DIR": str(self.var / "gateway"),
            "STOA_GATEWAY_HOST": "127.0.0.1",
            "STOA_GATEWAY_PORT": str(self.gateway_port),
            "STOA_GATEWAY_ID": "gw-local",
            "STOA_GATEWAY_CONTROLPLANE_URL": self.console_url,
            "STOA_GATEWAY_SOCKETS": str(self._run_dir()),
            "STOA_REGION": REGION,
        }

    def agent_environment(self, enrollment_token: str = "", pin: str = "") -> dict[str, str]:
        env = {
            **_inherited(),
            "STOA_CONTROLPLANE_URL": self.agents_url,
            "STOA_CONTROLPLANE_PIN": pin,
            "STOA_AGENT_DIR": str(self.agent_dir),
            "STOA_AGENT_RUN_DIR": str(self._run_dir()),
            "STOA_AGENT_STOP_ENGINES": "1",
        }
        return env | ({"STOA_AGENT_TOKEN": enrollment_token} if enrollment_token else {})

    def _run_dir(self) -> Path:
        """A short path for sockets (their names are limited to 107 bytes), one an installation."""
        mark = hashlib.sha256(str(self.var).encode()).hexdigest()[:8]
        if os.geteuid() == 0:
            return Path("/run/stoa") / mark
        return Path(os.environ.get("XDG_RUNTIME_DIR") or "/tmp") / f"stoa-{os.getuid()}-{mark}"

    def _secret(self, name: str) -> str:
        path = self.var / "secrets" / name
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            draft = path.with_suffix(".new")
            draft.unlink(missing_ok=True)
            draft.touch(mode=0o600)
            draft.write_text(base64.urlsafe_b64encode(secrets.token_bytes(32)).decode())
            draft.rename(path)
        return path.read_text()


REGION = os.environ.get("STOA_REGION") or "eu-de-1"

# Settings of the house that a person may set for all processes at once.
_PASSED = ("STOA_", "OTEL_", "HF_", "LC_", "SSL_", "UV_", "PIP_", "XDG_")
# Each process is told those that it needs, by name.
_SECRETS = (
    "STOA_SECRET_KEY",
    "STOA_KEY_PEPPER",
    "STOA_MASTER_KEY",
    "STOA_KMS_PASSPHRASE",
    "STOA_OWNER_DATABASE_URL",
    "STOA_GATEWAY_DATABASE_URL",
    "STOA_BACKUP_DATABASE_URL",
    "STOA_AGENT_TOKEN",
)
_PASSED_WHOLE = ("PATH", "HOME", "LANG", "USER", "TERM", "TMPDIR", "TZ", "VIRTUAL_ENV")


def _inherited() -> dict[str, str]:
    """The part of our own environment that children need; credentials of others stay behind."""
    env = {
        name: value
        for name, value in os.environ.items()
        if (name in _PASSED_WHOLE or name.startswith(_PASSED))
        and name.removesuffix("_FILE") not in _SECRETS
    }
    return env | {"PYTHONUNBUFFERED": "1"}
