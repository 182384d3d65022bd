"""The signer as a process: what it signs and refuses, and what no kill makes it forget."""

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from django.test import override_settings

from compliance.log import merkle, notes, signing
from tests.signers import running
from tests.test_layout import ROOT
from workers.signer.answering import Signer
from workers.signer.memory import FilesError, Memory, open_files
from workers.signer.server import Server
from workers.signer.settings import SettingError, Settings

LEAVES = [merkle.leaf_hash(b"%d" % n) for n in range(40)]
NODES = merkle.nodes_of(LEAVES)
OTHERS = merkle.nodes_of([merkle.leaf_hash(b"other %d" % n) for n in range(40)])
ORIGIN = "localhost/audit/t/org_1"


def sign(size: int, last: int, nodes: merkle.Nodes = NODES, origin: str = ORIGIN) -> str:
    proof = merkle.consistency_proof(nodes, last, size) if last <= size else []
    return signing.checkpoint(origin, size, merkle.tree_root(nodes, size), proof)


def refused(size: int, last: int, **more: Any) -> str:
    with pytest.raises(signing.Refused) as caught:
        sign(size, last, **more)
    return caught.value.code


def test_heads_follow_each_other_or_are_refused(tmp_path: Path) -> None:
    with running(tmp_path):
        key = signing.verifier()
        note = sign(7, 0)
        found = notes.parse_checkpoint(notes.open_note(note, [key]))
        assert (found.origin, found.size, found.root) == (ORIGIN, 7, merkle.tree_root(NODES, 7))
        assert sign(7, 7) == note
        sign(21, 7)
        assert refused(20, 7) == "smaller"
        assert refused(21, 21, nodes=OTHERS) == "inconsistent"
        assert refused(30, 21, nodes=OTHERS) == "inconsistent"
        assert refused(30, 7) == "inconsistent"
        assert refused(30, 0, origin="elsewhere/audit/meta") == "foreign"
        sign(30, 0, nodes=OTHERS, origin="localhost/audit/t/org_2")
        assert signing.head(ORIGIN).size == 21
        assert signing.head("localhost/audit/t/org_3") == signing.Head(
            0, merkle.EMPTY_ROOT, "", False
        )
    with running(tmp_path):  # it remembers over a restart, and has the same key
        assert signing.verifier() == key
        assert refused(20, 7) == "smaller"
        assert signing.close(ORIGIN).closed
        assert refused(40, 21) == "closed"
        assert notes.open_note(signing.head(ORIGIN).note, [key]).startswith(f"{ORIGIN}\n21\n")


def test_a_manifest_is_signed_as_what_no_checkpoint_can_be() -> None:
    with running():
        note = signing.manifest("records", "ab" * 32, "org_1")
        text = notes.open_note(note, [notes.parse_vkey(signing.vkey())])
        assert text == f"localhost/audit/t/org_1/bundle\nrecords\n{'ab' * 32}\n"
        with pytest.raises(notes.NoteError):
            notes.parse_checkpoint(text)
        for kind, digest in (("7", "ab" * 32), ("records", "ab"), ("a\nb", "ab" * 32)):
            with pytest.raises(signing.Refused, match="malformed"):
                signing.manifest(kind, digest, "org_1")


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"[]",
        b'{"op": "sign"}',
        b'{"op": "checkpoint", "origin": 7}',
        b'{"op": "checkpoint", "origin": "localhost/a", "size": true, "root": "AA=="}',
        b'{"op": "checkpoint", "origin": "localhost/a\\nb", "size": 1, "root": "AA=="}',
        b"[" * 50_000,
        b"\xff",
    ],
)
def test_nonsense_is_refused(line: bytes, tmp_path: Path) -> None:
    signer = Signer("localhost", Ed25519PrivateKey.generate(), Memory(tmp_path), tmp_path)
    assert signer.answer(line)["refused"] in ("malformed", "foreign")


def test_files_are_private_and_go_together(tmp_path: Path) -> None:
    home = tmp_path / "signer"
    _, memory = open_files(home)
    memory.close()
    assert {path.name: path.stat().st_mode & 0o777 for path in home.iterdir()} == {
        "signer.key": 0o600,
        "heads.sqlite3": 0o600,
    }
    (home / "signer.key").chmod(0o640)
    with pytest.raises(FilesError, match="read by others"):
        open_files(home)
    (home / "signer.key").chmod(0o600)
    (home / "heads.sqlite3").unlink()
    with pytest.raises(FilesError, match="what it signed"):
        open_files(home)


def test_settings_that_cannot_be_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STOA_LOG_ORIGIN", "two words")
    with pytest.raises(SettingError, match="STOA_LOG_ORIGIN"):
        Settings.from_environment()
    monkeypatch.setenv("STOA_LOG_ORIGIN", "stoa.example")
    monkeypatch.setenv("STOA_SIGNER_PEERS", "root, 4242")
    assert Settings.from_environment().peers >= {0, 4242}
    monkeypatch.setenv("STOA_SIGNER_PEERS", "nobody-of-this-name")
    with pytest.raises(SettingError, match="STOA_SIGNER_PEERS"):
        Settings.from_environment()


def test_only_its_peers_are_answered_and_only_one_signer_has_its_files(tmp_path: Path) -> None:
    with running(tmp_path), pytest.raises(FilesError, match="another signer"):
        Server(Settings(tmp_path / "other", tmp_path, "localhost", frozenset([0])))
    strangers = Settings(tmp_path / "socket", tmp_path, "localhost", frozenset([54321]))
    with Server(strangers) as server:
        assert strangers.socket.stat().st_mode & 0o777 == 0o666
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(str(strangers.socket))
            connection.settimeout(20)
            server.handle_request()
            assert json.loads(connection.recv(1000)) == {"refused": "peer"}
    with (
        override_settings(SIGNER_SOCKET=str(strangers.socket)),
        pytest.raises(signing.SignerAway),
    ):
        signing.vkey()


class Process:
    """The program as systemd starts it."""

    def __init__(self, home: Path) -> None:
        self.socket = home / "socket"
        self._child = subprocess.Popen(
            [sys.executable, "-m", "workers.signer"],
            cwd=ROOT,
            env={
                **os.environ,
                "STOA_SIGNER_DIR": str(home),
                "STOA_SIGNER_SOCKET": str(self.socket),
                "STOA_LOG_ORIGIN": "localhost",
            },
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self._child.stderr
        first = self._child.stderr.readline()
        assert "localhost+" in first, first

    def kill(self, number: int = signal.SIGKILL) -> int:
        self._child.send_signal(number)
        self._child.communicate()
        return self._child.returncode


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Path]:
    path = Path("/tmp") / f"stoa-signer-{os.getpid()}"
    path.symlink_to(tmp_path)  # short enough for a socket's name
    yield path
    path.unlink()


def test_a_killed_signer_signs_no_other_history(home: Path) -> None:
    """At each kill a note may be on its way: what was answered is remembered by the next one."""
    with override_settings(SIGNER_SOCKET=str(home / "socket")):
        last = 0
        for size in (5, 18, 33):
            process = Process(home)
            assert signing.head(ORIGIN).size == last
            if last:
                assert refused(last - 1, 0) == "smaller"
                assert refused(last, last, nodes=OTHERS) == "inconsistent"
            sign(size, last)
            last = size
            process.kill()
        process = Process(home)
        assert signing.head(ORIGIN).size == 33
        assert process.kill(signal.SIGTERM) == 0
        assert not process.socket.exists()
