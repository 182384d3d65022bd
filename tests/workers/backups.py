"""Where a test's backups go, who may read them, and a gateway's spool beside them."""

import asyncio
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from django.db import connection

from gateway.records import CloseRecord, OpenRecord
from gateway.shipping import Shipper
from gateway.spool import Spool
from gateway.store import Store
from workers.backup import envelope, restoring, secrets
from workers.backup.config import Config

ROOT = Path(__file__).resolve().parents[2]
NAMES = ("key_1", "prj_1", "ep_1", "rep_1", "chat.completions")
OPENED_US = 1_772_625_600_123_457


def database_url() -> str:
    """This test's database, as the superuser."""
    url = urlsplit(os.environ["DATABASE_URL"])
    return urlunsplit(url._replace(path="/" + str(connection.settings_dict["NAME"])))


def house_secrets() -> dict[str, str]:
    return {name: os.environ[name] for name in secrets.NAMES if name in os.environ}


@dataclass
class Place:
    config: Config
    identity: Path
    keys_identity: Path

    @classmethod
    def made(cls, folder: Path) -> "Place":
        drawn = {}
        for name in ("data", "keys"):
            secret, recipient = envelope.new_identity()
            (folder / f"{name}.identity").write_text(f"# public key: {recipient}\n{secret}\n")
            drawn[name] = recipient
        (folder / "gateway" / "spool").mkdir(parents=True)
        config = Config(
            folder=folder / "backups",
            recipients=(drawn["data"],),
            keys_folder=folder / "elsewhere",
            keys_recipients=(drawn["keys"],),
            database_url=database_url(),
            gateways=(folder / "gateway",),
            journal=folder / "journal",
        )
        return cls(config, folder / "data.identity", folder / "keys.identity")

    @property
    def folder(self) -> Path:
        assert self.config.folder
        return self.config.folder

    @property
    def spool(self) -> Path:
        return self.config.gateways[0] / "spool"

    def source(self, id: str = "latest", **changes: Any) -> restoring.Source:
        asked = {
            "identity": self.identity,
            "secrets": house_secrets(),
            "journal": self.config.journal,
        }
        return restoring.source(self.folder, id, **{**asked, **changes})

    def command(self, *words: str) -> "subprocess.Popen[str]":
        """`stoa backup …` with the settings of this place."""
        config = self.config
        env = os.environ | {
            "DATABASE_URL": database_url(),
            "STOA_BACKUP_DIR": str(config.folder),
            "STOA_BACKUP_RECIPIENTS": ",".join(config.recipients),
            "STOA_BACKUP_KEYS_DIR": str(config.keys_folder),
            "STOA_BACKUP_KEYS_RECIPIENTS": ",".join(config.keys_recipients),
            "STOA_BACKUP_JOURNAL_DIR": str(config.journal),
            "STOA_BACKUP_GATEWAYS": str(config.gateways[0]),
            "PYTHONPATH": f"{ROOT / 'platform'}{os.pathsep}{ROOT}",
        }
        return subprocess.Popen(
            [sys.executable, "-m", "workers.backup", *words],
            env=env,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )


def opened(request_id: str) -> OpenRecord:
    return OpenRecord(request_id, *NAMES, OPENED_US)


def closed(request_id: str) -> CloseRecord:
    return CloseRecord(
        request_id,
        *NAMES,
        opened_at_us=OPENED_US,
        closed_at_us=OPENED_US + 1_500_000,
        status=200,
        finish="stop",
        counted_by="engine",
        input_tokens=100,
        cached_tokens=64,
        output_tokens=7,
    )


def ship(folder: Path, url: str, spool: Spool | None = None) -> None:
    """All that stands in a spool goes to a database: what the live one has, and dead ones left."""

    async def run() -> None:
        store = Store(url)
        live = spool or Spool(folder, segment_bytes=1 << 16)
        await live.start()
        shipper = Shipper(live, store, folder, "gw-test")
        await shipper.start()
        async with asyncio.timeout(60):
            while [path for path in folder.glob("writer-*") if path.name != live.name]:
                await asyncio.sleep(0.01)
        await shipper.stop()
        if spool is None:
            await live.stop()
        else:
            await live.stop_chores()
        await store.stop()

    asyncio.run(run())
