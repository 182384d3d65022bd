"""A form with a file, straight into sealed chunks: neither is ever whole in memory or on disk."""

from dataclasses import dataclass
from typing import Any, Protocol, cast

from django.core.exceptions import SuspiciousOperation
from django.core.files.uploadhandler import FileUploadHandler, StopFutureHandlers
from django.http.multipartparser import MultiPartParser, MultiPartParserError

from controlplane.batches import files
from controlplane.batches.errors import FileRefused

_UNKNOWN = 1  # the form's length: it comes in pieces, and the parser only asks whether it is 0


class Readable(Protocol):
    def read(self, size: int = -1) -> bytes: ...


@dataclass(frozen=True)
class Form:
    filename: str
    purpose: str
    kept_s: float | None


class _Sealing(FileUploadHandler):
    """Takes the part `file`; a second file is refused."""

    chunk_size = 64 << 10

    def __init__(self, upload: files.Upload) -> None:
        super().__init__()
        self._upload = upload
        self.filename: str | None = None

    def new_file(self, *args: Any, **kwargs: Any) -> None:
        super().new_file(*args, **kwargs)
        if self.field_name != "file" or self.filename is not None:
            raise FileRefused("a form has one file, under the name `file`", field="file")
        self.filename = self.file_name or ""
        raise StopFutureHandlers

    def receive_data_chunk(self, raw_data: bytes, start: int) -> None:
        self._upload.write(raw_data)

    def file_complete(self, file_size: int) -> None:
        return None


def read(content_type: str, body: Readable, upload: files.Upload) -> Form:
    """Raises FileRefused, FileTooLarge."""
    handler = _Sealing(upload)
    meta = {"CONTENT_TYPE": content_type, "CONTENT_LENGTH": _UNKNOWN}
    try:
        fields, _ = MultiPartParser(meta, cast(Any, body), [handler]).parse()
    except (MultiPartParserError, SuspiciousOperation):
        message = "the body is no form with a file (multipart/form-data)"
        raise FileRefused(message, code="invalid_form") from None
    if handler.filename is None:
        raise FileRefused("a form has one file, under the name `file`", field="file")
    return Form(handler.filename, fields.get("purpose", ""), _kept_s(fields))


def _kept_s(fields: Any) -> float | None:
    """OpenAI's expires_after: {anchor: created_at, seconds}."""
    anchor = fields.get("expires_after[anchor]")
    seconds = fields.get("expires_after[seconds]")
    if anchor is None and seconds is None:
        return None
    if anchor != "created_at" or not (seconds or "").isdigit() or len(seconds) > 9:
        message = "expires_after has the anchor `created_at`, and seconds"
        raise FileRefused(message, code="invalid_expiry", field="expires_after")
    return float(seconds)
