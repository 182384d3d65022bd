"""A backup of a house that serves, and the same house again in another place."""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.flows.conftest import SETTINGS
from tests.flows.stoa import ROOT, Stoa, installation, until
from workers.backup import envelope

pytestmark = [pytest.mark.engine, pytest.mark.xdist_group("flows")]


class Keeper:
    """Who has the identities, and runs `stoa backup …` beside a house."""

    def __init__(self, stoa: Stoa, folder: Path) -> None:
        self.folder = folder
        recipients = {}
        for name in ("data", "keys"):
            secret, recipients[name] = envelope.new_identity()
            (folder / name).write_text(secret)
        self.env = stoa.env | {
            "STOA_BACKUP_DIR": str(folder / "backups"),
            "STOA_BACKUP_RECIPIENTS": recipients["data"],
            "STOA_BACKUP_KEYS_DIR": str(folder / "elsewhere"),
            "STOA_BACKUP_KEYS_RECIPIENTS": recipients["keys"],
            "PYTHONPATH": f"{ROOT / 'platform'}{os.pathsep}{ROOT}",
        }

    def run(self, *words: str) -> dict[str, Any]:
        done = subprocess.run(
            [sys.executable, "-m", "workers.backup", *words, "--json"],
            env=self.env,
            capture_output=True,
            text=True,
            timeout=240,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        found: dict[str, Any] = json.loads(done.stdout)
        return found

    def opening(self, id: str) -> list[str]:
        keys = self.folder / "elsewhere" / f"{id}.keys.age"
        return [
            *("--identity", str(self.folder / "data"), "--keys-file", str(keys)),
            *("--keys-identity", str(self.folder / "keys")),
        ]


@pytest.fixture
def keeper(stoa: Stoa, tmp_path: Path) -> Keeper:
    return Keeper(stoa, tmp_path)


class Traffic:
    """Requests, one after another, until it is told to end; which were answered."""

    def __init__(self, stoa: Stoa) -> None:
        self.answered: list[str] = []
        self._stoa, self._end = stoa, threading.Event()
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        with self._stoa.client() as sdk:
            while not self._end.is_set():
                answer = sdk.completions.create(model="hello", prompt="import os", max_tokens=3)
                assert answer._request_id
                self.answered.append(answer._request_id)

    def __enter__(self) -> "Traffic":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join()


def usage(stoa: Stoa) -> dict[str, int]:
    """Of each request how often it is in the books, by the ids of its rows."""
    found: dict[str, int] = {}
    for row in stoa.api.usage(endpoint=stoa.api.endpoint("hello")["id"]):
        if row["request"] and row["meter"] == "output_tokens":
            found[row["request"]] = found.get(row["request"], 0) + 1
    return found


@pytest.fixture
def again(stoa: Stoa, keeper: Keeper, tmp_path: Path) -> Iterator[tuple[Stoa, list[str], str]]:
    """The house that came back, what was answered before its backup, and a key revoked after."""
    api = stoa.api
    project = api.endpoint("hello")["project"]
    key = api.post("/api-keys", {"project": project, "name": "leaked", "scopes": ["read"]})
    with Traffic(stoa) as traffic:
        until(lambda: len(traffic.answered) > 2, what="some are answered")
        before = list(traffic.answered)
        made = keeper.run("create")
    api.delete(f"/api-keys/{key['id']}")
    assert keeper.run("journal")["shipped"] >= 1
    tried = keeper.run("drill", *keeper.opening(made["id"]))
    assert tried["recorded"] and tried["reopened"]["ended"]["api_key.revoke"] == 1
    assert tried["lost_s"] > 0 < tried["took_s"]
    var = tmp_path / "var"
    keeper.run("restore", made["id"], "--to", str(var), *keeper.opening(made["id"]))
    keys = [folder / "signer" / "signer.key" for folder in (stoa.var, var)]
    assert keys[0].read_bytes() == keys[1].read_bytes()
    with installation(var, **SETTINGS) as back:
        yield back, before, key["secret"]


def test_a_house_comes_back(again: tuple[Stoa, list[str], str]) -> None:
    back, before, revoked = again
    # What was answered before the backup began is in the books, once.
    counted = until(
        lambda: found if set(before) <= (found := usage(back)).keys() else None,
        what="every request is booked",
    )
    assert counted and set(counted.values()) == {1}
    reply = httpx.get(
        f"{back.run['console_url']}/api/v1/endpoints",
        headers={"authorization": f"Bearer {revoked}"},
    )
    assert reply.status_code == 401
