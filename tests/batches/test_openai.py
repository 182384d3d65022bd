"""OpenAI's own client against a gateway: files and batches, and another project's are not there."""

import json
import tempfile
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from controlplane.batches.models import Batch, File, FileChunk, Line
from tests.batches.conftest import KEY, Place
from tests.batches.live import client
from tests.gateway.house import REGION, eventually, new_project

SECRET = "the prompt that nobody may see"
THEIRS = "sk-stoa-otherorg-" + "k" * 43
ENDED = ("completed", "failed", "expired", "cancelled")


def line(number: int, **body: Any) -> str:
    messages = [{"role": "user", "content": f"{SECRET} {number}"}]
    said = {"model": "tiny", "messages": messages, **body}
    asked = {"custom_id": f"c-{number}", "method": "POST", "url": "/v1/chat/completions"}
    return json.dumps(asked | {"body": said})


def upload(api: openai.OpenAI, *lines: str) -> str:
    content = "\n".join(lines).encode() + b"\n"
    return api.files.create(file=("in.jsonl", content), purpose="batch").id


def ended(api: openai.OpenAI, batch_id: str, within_s: float = 60.0) -> Any:
    rows = Batch.objects.filter(id=batch_id, status__in=ENDED)
    eventually(rows.exists, within_s=within_s)
    return api.batches.retrieve(batch_id)


def rows(api: openai.OpenAI, file_id: str) -> list[dict[str, Any]]:
    return [json.loads(one) for one in api.files.content(file_id).text.splitlines()]


def test_a_batch_from_file_to_file(place: Place) -> None:
    api = place.openai
    lines = [line(n, user=f"tokens={n % 5 + 1}") for n in range(40)]
    lines[7] = line(7, user="error=400")
    content = "\n".join(lines).encode()
    file = api.files.create(
        file=("in.jsonl", content),
        purpose="batch",
        expires_after={"anchor": "created_at", "seconds": 7200},
    )
    assert (file.object, file.bytes, file.purpose) == ("file", len(content), "batch")
    assert (file.filename, file.status) == ("in.jsonl", "processed")
    assert file.expires_at == file.created_at + 7200
    assert api.files.retrieve(file.id) == file
    assert api.files.content(file.id).content == content
    batch = api.batches.create(
        input_file_id=file.id,
        endpoint="/v1/chat/completions",
        completion_window="24h",
        metadata={"night": "one"},
    )
    assert (batch.status, batch.metadata) == ("validating", {"night": "one"})
    assert batch.expires_at == batch.created_at + 86_400
    place.django.runner()
    batch = ended(api, batch.id)
    assert batch.status == "completed"
    counts = batch.request_counts
    assert (counts.total, counts.completed, counts.failed) == (40, 39, 1)
    output = rows(api, batch.output_file_id)
    assert [row["custom_id"] for row in output] == [f"c-{n}" for n in range(40) if n != 7]
    for row in output:
        number = int(row["custom_id"][2:])
        assert row["error"] is None and row["response"]["status_code"] == 200
        body = row["response"]["body"]
        assert body["model"] == "tiny"
        assert body["choices"][0]["message"]["content"] == "tok" * (number % 5 + 1)
    (wrong,) = rows(api, batch.error_file_id)
    assert (wrong["custom_id"], wrong["response"]["status_code"]) == ("c-7", 400)
    found = api.files.retrieve(batch.output_file_id)
    assert (found.purpose, found.bytes) == (
        "batch_output",
        len(api.files.content(found.id).content),
    )
    nothing_in_the_clear(place)
    strangers(place, file.id, batch.id, batch.output_file_id)
    lists(api, batch, file.id)
    nowhere_whole(place)


def nowhere_whole(place: Place) -> None:
    """A form whose purpose comes last, of a file larger than what its way may take in memory."""
    size = 48 << 20
    before = place.peaks()
    with tempfile.TemporaryFile() as file:
        file.truncate(size)
        form = [("file", ("big.jsonl", file)), ("purpose", (None, b"batch"))]
        answer = httpx.post(
            f"http://127.0.0.1:{place.gateway.port}/v1/files",
            files=form,  # type: ignore[arg-type]
            headers={"authorization": f"Bearer {KEY}"},
            timeout=120,
        )
    assert (answer.status_code, answer.json()["bytes"]) == (200, size)
    content = httpx.stream(
        "GET",
        f"http://127.0.0.1:{place.gateway.port}/v1/files/{answer.json()['id']}/content",
        headers={"authorization": f"Bearer {KEY}"},
        timeout=120,
    )
    with content as reply:
        assert sum(map(len, reply.iter_raw())) == size
    grown = [after - one for one, after in zip(before, place.peaks(), strict=True)]
    assert max(grown) < size / 2, grown


def nothing_in_the_clear(place: Place) -> None:
    """Neither at rest nor in a log; and what lines were is gone from their table."""
    assert not Line.objects.exists()
    assert FileChunk.objects.exists()
    for chunk in FileChunk.objects.all():
        assert SECRET.encode() not in bytes(chunk.blob)
    assert SECRET not in str(list(Batch.objects.values())) + str(list(File.objects.values()))
    logs = [place.gateway.log, place.django.log("web"), place.django.log("runner")]
    assert SECRET not in "".join(logs)
    written = [path for path in Path(place.gateway.folder).rglob("*") if path.is_file()]
    assert all(SECRET.encode() not in path.read_bytes() for path in written)


def strangers(place: Place, *ids: str) -> None:
    """To another project none of it exists; without a key, or past the gateway, nothing does."""
    project, place.house.project = place.house.project, new_project("Eve's", REGION)
    place.house.key(THEIRS)
    place.house.project = project
    theirs, nobody = client(place.gateway.port, THEIRS), client(place.gateway.port, "sk-nobody")
    eventually(lambda: _status(lambda: theirs.files.list()) == 200)
    file_id, batch_id, output_id = ids
    for api, status in ((theirs, 404), (nobody, 401)):
        for look in (
            lambda api=api: api.files.retrieve(file_id),
            lambda api=api: api.files.content(output_id),
            lambda api=api: api.files.delete(file_id),
            lambda api=api: api.batches.retrieve(batch_id),
            lambda api=api: api.batches.cancel(batch_id),
            lambda api=api: api.batches.create(
                input_file_id=file_id, endpoint="/v1/chat/completions", completion_window="24h"
            ),
        ):
            assert _status(look) == status
    assert theirs.files.list().data == [] and theirs.batches.list().data == []
    past = openai.OpenAI(base_url=f"{place.django.url}/gateway/v1", api_key=THEIRS, max_retries=0)
    assert _status(lambda: past.files.list()) == 404


def _status(look: Any) -> int:
    try:
        look()
    except openai.APIStatusError as error:
        return error.status_code
    return 200


def lists(api: openai.OpenAI, batch: Any, file_id: str) -> None:
    assert [one.id for one in api.batches.list(limit=1)] == [batch.id]
    mine = api.files.list(purpose="batch").data
    assert [one.id for one in mine] == [file_id]
    every = [one.id for one in api.files.list(limit=1)]  # the client turns the pages
    assert every == sorted(every, reverse=True) and len(every) == 3
    with pytest.raises(openai.ConflictError):
        api.batches.cancel(batch.id)
    assert api.files.delete(file_id).deleted
    assert not FileChunk.objects.filter(file_id=file_id).exists()
    with pytest.raises(openai.NotFoundError) as gone:
        api.files.content(file_id)
    assert gone.value.code == "file_not_found"
    for wrong in ("fine-tune", "assistants"):
        with pytest.raises(openai.BadRequestError) as refused:
            api.files.create(file=("a.jsonl", b"{}"), purpose=wrong)
        assert refused.value.param == "purpose"
