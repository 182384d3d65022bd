"""`stoa models upload FOLDER`: weights of one's own, over the management API, from any machine.

It keeps nothing: what was sent so far is asked of the API, which knows each file by its SHA-256.
So the same command goes on after whatever ended it, on another machine too. No Django here: who
uploads has an address and a key, and none of the house's settings.
"""

import argparse
import hashlib
import json
import os
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TextIO

import httpx
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

from controlplane.fleet import wire

PIECE_BYTES = 8 << 20
# A file's last piece is answered when all of it has been read again.
TIMEOUT = httpx.Timeout(60.0, read=900.0)
PAUSES_S = (1, 2, 4, 8, 15, 30, 30, 30, 30, 30)
URL = "http://127.0.0.1:8000"
_BUFFER = 1 << 20
_PAGE = 20

Sleep = Callable[[float], None]


class UploadError(Exception):
    """It cannot be done, or not now; the message is for a person."""


@dataclass(frozen=True)
class File:
    """One file of the folder; `path` as the API is told of it."""

    path: str
    place: Path
    size_bytes: int
    sha256: str

    def declared(self) -> dict[str, Any]:
        return {"path": self.path, "size_bytes": self.size_bytes, "sha256": self.sha256}


@dataclass(frozen=True)
class Step:
    """How far it is. `state`: checking (sums are made), uploading, complete."""

    state: str
    done_bytes: int
    total_bytes: int
    file: str = ""
    id: str = ""


Told = Callable[[Step], None]


def files(folder: Path, told: Told) -> list[File]:
    """What nodes would fetch of a model's folder, with sums. Raises UploadError."""
    found = sorted(
        path
        for path in folder.rglob("*")
        if wire.is_model_file(path.name)
        and not any(step.startswith(".") for step in path.relative_to(folder).parts)
        and path.is_file()
        and path.stat().st_size
    )
    if folder / "config.json" not in found:
        raise UploadError(f"{folder} holds no model: it has no config.json")
    total, done, summed = sum(path.stat().st_size for path in found), 0, []
    for path in found:
        name, sum_, start = path.relative_to(folder).as_posix(), hashlib.sha256(), done
        with path.open("rb") as file:
            while chunk := file.read(_BUFFER):
                sum_.update(chunk)
                done += len(chunk)
                told(Step("checking", done, total, name))
        summed.append(File(name, path, done - start, sum_.hexdigest()))
    return summed


class Client:
    """`http` has the API's address and a key. Requests that fail on their way, or find the API
    away, are sent again after PAUSES_S."""

    def __init__(self, http: httpx.Client, told: Told, sleep: Sleep = time.sleep) -> None:
        self._http = http
        self._told = told
        self._sleep = sleep

    def send(self, project: str, name: str, given: Sequence[File]) -> str:
        """The upload's id, when all of it is there. Raises UploadError."""
        upload = self._known(project, name, given) or self._declared(project, name, given)
        local = {file.path: file for file in given}
        total = sum(file.size_bytes for file in given)
        done = sum(file["received_bytes"] for file in upload["files"])
        id = upload["id"]
        for row in upload["files"]:
            file, sent = local[row["path"]], row["received_bytes"]
            self._told(Step("uploading", done, total, file.path, id))
            while sent < file.size_bytes:
                before, sent = sent, self._piece(id, row["number"], file, sent)
                done += sent - before
                self._told(Step("uploading", done, total, file.path, id))
        self._told(Step("complete", done, total, id=id))
        return str(id)

    def _known(self, project: str, name: str, given: Sequence[File]) -> dict[str, Any] | None:
        """The same that was begun before, or is there already."""
        wanted = [file.declared() for file in given]
        query = {"project": project, "limit": str(_PAGE)}
        while True:
            page = self._call("GET", "/model-uploads", params=query)
            for one in page["data"]:
                known = [{field: file[field] for field in wanted[0]} for file in one["files"]]
                if one["name"] == name and known == wanted:
                    return dict(one)
            if not page["has_more"]:
                return None
            query["after"] = page["last_id"]

    def _declared(self, project: str, name: str, given: Sequence[File]) -> dict[str, Any]:
        body = {"project": project, "name": name, "files": [file.declared() for file in given]}
        once = {"idempotency-key": uuid.uuid4().hex}  # an answer that got lost makes no second one
        return dict(self._call("POST", "/model-uploads", json=body, headers=once))

    def _piece(self, id: str, number: int, file: File, offset: int) -> int:
        """Send one from `offset` on: how much of the file is there then."""
        with file.place.open("rb") as opened:
            opened.seek(offset)
            content = opened.read(min(PIECE_BYTES, file.size_bytes - offset))
        try:
            row = self._call(
                "PUT",
                f"/model-uploads/{id}/piece",
                params={"number": str(number), "offset": str(offset)},
                content=content,
                headers={"content-type": "application/octet-stream"},
            )
        except _Refused as refused:
            if refused.code == "wrong_sum":
                raise UploadError(f"{file.place} was changed since it was checked") from refused
            if refused.code != "wrong_offset":
                raise
            # The answer to a piece got lost, or somebody else sends the same.
            rows = self._call("GET", f"/model-uploads/{id}")["files"]
            row = next(row for row in rows if row["number"] == number)
        return int(row["received_bytes"])

    def _call(self, method: str, path: str, **more: Any) -> Any:
        trouble = ""
        for pause_s in (0, *PAUSES_S):
            if pause_s:
                self._sleep(pause_s)
            try:
                reply = self._http.request(method, path, **more)
            except httpx.TransportError as error:
                trouble = str(error) or type(error).__name__
                continue
            if reply.status_code < 500 and reply.status_code != httpx.codes.TOO_MANY_REQUESTS:
                return _good(reply)
            trouble = f"it answers {reply.status_code}"
        raise UploadError(f"the API cannot be reached: {trouble}. The same command goes on later.")


class _Refused(UploadError):
    def __init__(self, message: str, code: str) -> None:
        super().__init__(message)
        self.code = code


def _good(reply: httpx.Response) -> Any:
    if reply.is_success:
        return reply.json()
    try:
        problem = reply.json()
        message, code = str(problem["detail"]), str(problem["code"])
    except (ValueError, KeyError, TypeError):
        message, code = f"{reply.url} answers {reply.status_code}", ""
    raise _Refused(message, code)


# --- the command ------------------------------------------------------------------------------


def add_arguments(parser: argparse.ArgumentParser) -> None:
    url = os.environ.get("STOA_CONTROLPLANE_URL", URL)
    parser.add_argument("folder", type=Path, help="with config.json and safetensors")
    parser.add_argument("--project", required=True, help="whose it will be: prj_…")
    parser.add_argument("--name", default="", help="what it is called; else as the folder")
    parser.add_argument("--url", default=url, help=f"the console's address ({url})")
    parser.add_argument("--json", action="store_true", help="a line of JSON for each step")


def upload(options: argparse.Namespace, out: TextIO) -> None:
    """What the command does. Raises UploadError."""
    key = os.environ.get("STOA_API_KEY", "")
    if not key:
        raise UploadError("set STOA_API_KEY to an API key with scope `manage`")
    folder: Path = options.folder.resolve()
    if not folder.is_dir():
        raise UploadError(f"no such folder: {options.folder}")
    headers = {"authorization": f"Bearer {key}"}
    address = f"{options.url.rstrip('/')}/api/v1"
    with (
        httpx.Client(base_url=address, headers=headers, timeout=TIMEOUT) as http,
        _lines(out) if options.json else _bars(out) as told,
    ):
        given = files(folder, told)
        id = Client(http, told).send(options.project, options.name or folder.name, given)
    if not options.json:
        out.write(f"{id}\n")


def main(arguments: Sequence[str]) -> int:
    """`stoa models upload` where there is no Django: the exit status."""
    parser = argparse.ArgumentParser(prog="stoa models upload", description=__doc__)
    add_arguments(parser)
    try:
        upload(parser.parse_args(arguments), sys.stdout)
    except UploadError as error:
        print(f"stoa: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("stoa: the same command goes on where this one ended", file=sys.stderr)
        return 130
    return 0


@contextmanager
def _lines(out: TextIO) -> Iterator[Told]:
    """Each step as a line; of the checking only its end."""

    def told(step: Step) -> None:
        if step.state != "checking" or step.done_bytes == step.total_bytes:
            out.write(f"{json.dumps(asdict(step))}\n")
            out.flush()

    yield told


@contextmanager
def _bars(out: TextIO) -> Iterator[Told]:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TextColumn("{task.fields[file]}"),
    )
    with Progress(*columns, console=Console(file=out)) as shown:
        bars: dict[str, Any] = {}

        def told(step: Step) -> None:
            if step.state == "complete":
                return
            if step.state not in bars:
                bars[step.state] = shown.add_task(step.state, total=step.total_bytes, file="")
                shown.update(bars[step.state], completed=step.done_bytes)
            shown.update(bars[step.state], completed=step.done_bytes, file=step.file)

        yield told
