"""`stoa models upload`: a folder sent over the real API, killed, and gone on with."""

import json
import os
import random
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from controlplane.endpoints import upload_client, uploads
from controlplane.endpoints.models import Upload
from controlplane.endpoints.upload_client import PIECE_BYTES, Client, Step, UploadError
from tests.api.house import House
from tests.frontend import browser

WEIGHTS = random.Random(4).randbytes(4 * PIECE_BYTES + 1234)


def model(folder: Path, weights: bytes = b"w" * 10) -> Path:
    """A folder as people have it: with what no engine reads."""
    (folder / ".git").mkdir(parents=True)
    (folder / "part").mkdir()
    for name, content in {
        "config.json": b"{}",
        "part/model.safetensors": weights,
        "README.md": b"words",
        "modeling.py": b"code",
        "empty.json": b"",
        ".git/x.json": b"{}",
        ".hidden.json": b"{}",
    }.items():
        (folder / name).write_bytes(content)
    return folder


def deaf(_: Step) -> None:
    pass


# --- the command, against a real web process -----------------------------------------------------


@pytest.fixture
def address(
    alice: House, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: Any
) -> Iterator[str]:
    settings.UPLOADS_DIR = tmp_path / "uploads"
    monkeypatch.setenv("STOA_UPLOADS_DIR", str(settings.UPLOADS_DIR))
    with browser.console() as found:
        yield found


def command(
    folder: Path, house: House, address: str, *, lines: bool = True
) -> "subprocess.Popen[str]":
    program = "import sys; from controlplane.cli import main; main()"
    words = ["models", "upload", str(folder), "--project", house.project.id, "--url", address]
    # Of a developer's machine: nothing of the house's settings.
    environment = {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": f"{browser.ROOT}/platform:{browser.ROOT}",
        "STOA_API_KEY": house.secret,
    }
    return subprocess.Popen(
        [sys.executable, "-c", program, *words, *(["--json"] if lines else [])],
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
    )


def steps(process: "subprocess.Popen[str]") -> Iterator[dict[str, Any]]:
    assert process.stdout is not None
    return map(json.loads, process.stdout)


@pytest.mark.django_db(transaction=True)
def test_what_was_killed_goes_on_where_it_ended(alice: House, address: str, tmp_path: Path) -> None:
    folder = model(tmp_path / "mine", WEIGHTS)
    with command(folder, alice, address) as first:
        reached = next(
            step["done_bytes"]
            for step in steps(first)
            if step["state"] == "uploading" and step["done_bytes"] > PIECE_BYTES
        )
        first.kill()
    assert reached < len(WEIGHTS)
    with command(folder, alice, address) as second:
        told = list(steps(second))
    assert second.returncode == 0
    begun = next(step for step in told if step["state"] == "uploading")
    assert begun["done_bytes"] >= reached
    (upload,) = Upload.objects.all()
    assert (told[-1]["state"], told[-1]["id"]) == ("complete", upload.id)
    assert (upload.name, upload.project, upload.finished_at is not None) == (
        "mine",
        alice.project,
        True,
    )
    rows = list(upload.files.order_by("number"))
    assert [row.path for row in rows] == ["config.json", "part/model.safetensors"]
    assert uploads.place(rows[1]).read_bytes() == WEIGHTS
    # Once more, for a person: nothing is sent twice.
    with command(folder, alice, address, lines=False) as third:
        assert third.stdout is not None
        assert third.stdout.read().splitlines()[-1] == upload.id
    assert Upload.objects.get().finished_at == upload.finished_at


# --- what happens on the way ---------------------------------------------------------------------


class Api:
    """Of one file of `size` bytes; `fails` may answer a piece, or raise, in its place."""

    def __init__(self, size: int, fails: Callable[[int], httpx.Response | None]) -> None:
        self.size = size
        self.fails = fails
        self.received = 0
        self.asked = 0
        self.paused: list[float] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.asked += 1
        if request.method == "GET" and request.url.path.endswith("/model-uploads"):
            return httpx.Response(200, json={"data": [], "has_more": False})
        row = {"number": 0, "path": "config.json", "received_bytes": self.received}
        if request.method == "PUT":
            failure = self.fails(self.asked)
            if failure is not None:
                return failure
            offset = int(request.url.params["offset"])
            if offset != self.received:
                return httpx.Response(409, json={"code": "wrong_offset", "detail": "elsewhere"})
            self.received += len(request.content)
            return httpx.Response(200, json=row | {"received_bytes": self.received})
        return httpx.Response(200, json={"id": "upl_1", "files": [row]})

    def client(self) -> Client:
        http = httpx.Client(base_url="http://api", transport=httpx.MockTransport(self))
        return Client(http, deaf, self.paused.append)


def one_file(folder: Path, size: int) -> list[upload_client.File]:
    (folder / "config.json").write_bytes(b"x" * size)
    return upload_client.files(folder, deaf)


def test_an_answer_that_got_lost_is_asked_for(tmp_path: Path) -> None:
    given = one_file(tmp_path, PIECE_BYTES + 5)
    api = Api(PIECE_BYTES + 5, lambda _: None)

    def lost(asked: int) -> httpx.Response | None:
        if asked == 3:  # the piece is taken, and nobody hears of it
            api.received += PIECE_BYTES
            raise httpx.ReadError("reset")
        return httpx.Response(503) if asked == 6 else None

    api.fails = lost
    assert api.client().send("prj_1", "mine", given) == "upl_1"
    assert (api.received, api.paused) == (PIECE_BYTES + 5, [1, 1])


def test_an_api_that_stays_away_is_given_up(tmp_path: Path) -> None:
    given = one_file(tmp_path, 5)
    api = Api(5, lambda _: httpx.Response(502))
    with pytest.raises(UploadError, match=r"it answers 502\. The same command goes on later"):
        api.client().send("prj_1", "mine", given)
    assert api.paused == list(upload_client.PAUSES_S)


@pytest.mark.parametrize(
    ("code", "says"), [("wrong_sum", "was changed since"), ("not_found", "no such upload")]
)
def test_a_refusal_is_passed_on_at_once(tmp_path: Path, code: str, says: str) -> None:
    given = one_file(tmp_path, 5)
    problem = {"code": code, "detail": "no such upload"}
    api = Api(5, lambda _: httpx.Response(409, json=problem))
    with pytest.raises(UploadError, match=says):
        api.client().send("prj_1", "mine", given)
    assert api.paused == []


def test_only_what_nodes_fetch_is_sent(tmp_path: Path) -> None:
    found = upload_client.files(model(tmp_path / "mine"), deaf)
    assert [file.path for file in found] == ["config.json", "part/model.safetensors"]
    (tmp_path / "mine/config.json").unlink()
    with pytest.raises(UploadError, match=r"it has no config\.json"):
        upload_client.files(tmp_path / "mine", deaf)


def test_who_has_no_key_is_told(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert upload_client.main([str(tmp_path), "--project", "prj_1"]) == 1
    assert "set STOA_API_KEY" in capsys.readouterr().err
