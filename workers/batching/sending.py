"""One line of a batch, to a gateway and back. Nothing of it is logged."""

import threading
import time
from collections.abc import Collection
from dataclasses import dataclass

import httpx
import msgspec
from cryptography.exceptions import InvalidTag
from django.conf import settings

from billing import passes
from compliance import sealing
from compliance.keys import KeyDestroyed
from controlplane.batches import content, services, validating
from controlplane.batches.models import Batch, File, FileChunk, Line
from controlplane.tenancy import keys

CONNECT_S = 5.0
_ABSURD = 1 << 30  # tokens
ANSWER_S = 1000.0  # beyond what a gateway waits for an engine


class Lost(Exception):
    """Whether the line was answered is unknown."""


class NotSent(Exception):
    """The line did not leave. `code` says why."""

    def __init__(self, code: str) -> None:
        super().__init__(code)
        self.code = code


@dataclass(frozen=True)
class Reply:
    status: int
    body: bytes
    retry_after: str


@dataclass(frozen=True)
class Letter:
    """A line with all that it needs on its way."""

    line: Line
    batch: Batch
    custom_id: str
    body: bytes
    key_hash: bytes


class Sources:
    """The input files that lines are being sent of, by batch: many lines stand in one chunk. What
    is in the clear is in memory alone, and goes with the batch."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._readers: dict[str, content.Reader] = {}

    def of(self, batch: Batch) -> content.Reader | None:
        """None where the file is gone."""
        file = File.objects.filter(id=batch.input_file_id, complete=True).first()
        with self._lock:
            if file is None:
                self._readers.pop(batch.id, None)
                return None
            if batch.id not in self._readers:
                self._readers[batch.id] = content.Reader(file)
            return self._readers[batch.id]

    def keep(self, batch_ids: Collection[str]) -> None:
        """Of no other batch lines are being sent any more."""
        with self._lock:
            for batch_id in self._readers.keys() - set(batch_ids):
                del self._readers[batch_id]


def prepare(line: Line, sources: Sources) -> Letter:
    """Raises NotSent where the file or the key is gone."""
    batch = Batch.objects.select_related("key").get(id=line.batch_id)
    try:
        source = sources.of(batch)
        if source is None:
            raise NotSent("input_file_deleted")
        custom_id, body = validating.parse(source.piece(line.offset, line.size))
    except (FileChunk.DoesNotExist, InvalidTag, sealing.SealBroken, KeyDestroyed):
        raise NotSent("input_file_deleted") from None
    digest = keys.current_hash(batch.key)
    if digest is None:
        raise NotSent("invalid_api_key")
    return Letter(line, batch, custom_id, body, digest)


def send(letter: Letter, client: httpx.Client) -> Reply:
    """Raises Lost, NotSent."""
    line, batch = letter.line, letter.batch
    secret = passes.key(settings.KEY_PEPPER, passes.TO_GATEWAY)
    claims = {
        "key": batch.key_id,
        "hash": letter.key_hash.hex(),
        "batch": batch.id,
        "request": line.request_id,
        "paid": line.paid,
    }
    shown = passes.issue(secret, claims, now=time.time())
    headers = {"authorization": f"Bearer stoa-batch-{shown}", "content-type": "application/json"}
    try:
        answer = client.post(batch.endpoint, content=letter.body, headers=headers)
    except (httpx.ConnectError, httpx.ConnectTimeout):
        raise NotSent("gateway_unreachable") from None
    except httpx.HTTPError:
        raise Lost from None
    return Reply(answer.status_code, answer.content, answer.headers.get("retry-after", ""))


class _Usage(msgspec.Struct):
    """As OpenAI's APIs call it: the newer one after the older."""

    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None


class _Counted(msgspec.Struct):
    usage: _Usage | None = None


def tokens(reply: Reply) -> tuple[int, int] | None:
    """Of the prompt and of the answer, as the answer counts them; None where it does not."""
    try:
        usage = msgspec.json.decode(reply.body, type=_Counted).usage
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None
    if usage is None:
        return None
    prompt = usage.prompt_tokens if usage.prompt_tokens is not None else usage.input_tokens
    output = usage.completion_tokens if usage.output_tokens is None else usage.output_tokens
    if prompt is None or not (0 <= prompt <= _ABSURD and 0 <= (output or 0) <= _ABSURD):
        return None
    return prompt, output or 0


def result(letter: Letter, reply: Reply) -> bytes:
    """The line of the output or error file, sealed for its row."""
    try:
        body = msgspec.json.decode(reply.body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        body = reply.body.decode("utf-8", "replace")
    said = msgspec.json.encode(
        {
            "id": letter.line.id,
            "custom_id": letter.custom_id,
            "response": {
                "status_code": reply.status,
                "request_id": letter.line.request_id,
                "body": body,
            },
            "error": None,
        }
    )
    batch = letter.batch
    box = content.Box(bytes(batch.sealed_key), services.context(batch.id), batch.project_id)
    return box.seal(said, letter.line.id)
