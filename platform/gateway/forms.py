"""Multipart forms on their way to an engine, a piece at a time. Pure.

Nothing of the client's framing is passed on: fields and the one file are read out of it and framed
anew, so that the engine cannot read another form than we did. The file's bytes go through; only
the fields are kept.
"""

import re
from collections.abc import Iterator

from gateway.errors import ApiError, bad_request

FILE = "file"
_HEAD_MAX = 8 << 10  # of one part
_FIELD_MAX = 64 << 10
_FIELDS_MAX = 64
_TYPE = re.compile(rb"\s*multipart/form-data\s*(;.*)?", re.IGNORECASE | re.DOTALL)
_BOUNDARY = re.compile(
    rb';\s*boundary=(?:"([\w()+,./:=?\' -]{0,69}[\w()+,./:=?\'-])"|([\w+.\'-]{1,70}))\s*(?=;|$)',
    re.IGNORECASE | re.ASCII,
)
_DISPOSITION = re.compile(rb"form-data\s*;(.*)", re.IGNORECASE)
_NAME = re.compile(rb'(?:^|;)\s*name="([\w\[\].-]{1,64})"\s*(?=;|$)', re.ASCII)
_FILENAME = re.compile(rb'(?:^|;)\s*filename(\*?)=("?)([^";]*)', re.IGNORECASE)
_PLAIN_FILENAME = re.compile(rb"[\w .()-]{1,100}", re.ASCII)
_PLAIN_TYPE = re.compile(rb"[\w.+-]+/[\w.+-]+", re.ASCII)


def boundary(content_type: bytes) -> bytes:
    """Raises 415 for another type, 400 for one without a boundary."""
    found = _TYPE.fullmatch(content_type)
    if found is None:
        message = "The body must be multipart/form-data."
        raise ApiError(415, "unsupported_media_type", message)
    marks = _BOUNDARY.findall(found[1] or b"")
    if len(marks) != 1:
        raise _malformed("its type names no boundary, or several")
    quoted, plain = marks[0]
    mark: bytes = quoted or plain
    return mark


class Form:
    """Feed it what arrives. Fields gather in `fields`; what `feed` yields is the file's.

    `file` is the file part's head, made anew, as soon as it has begun.
    """

    __slots__ = ("_buffer", "_delimiter", "_name", "_state", "fields", "file", "mark", "over")

    def __init__(self, mark: bytes) -> None:
        self.mark = mark
        self.fields: list[tuple[str, bytes]] = []
        self.file = b""
        self.over = False  # the closing delimiter was read
        self._delimiter = b"\r\n--" + mark
        self._buffer = b"\r\n"  # so that the first delimiter is like all others
        self._state = self._start
        self._name = ""  # of the part being read

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Raises ApiError 400 for what is no form."""
        self._buffer += data
        while (found := self._state()) is not None:
            if found:
                yield found

    def end(self) -> None:
        """The body is complete. Raises 400 where it is cut short or has no file."""
        if not self.over:
            raise _malformed("it ends before its closing delimiter")
        if not self.file:
            raise bad_request("missing_required_parameter", "You must provide `file`.", FILE)

    # Each step returns the file's bytes it found, or nothing; None when it needs more.
    def _start(self) -> bytes | None:
        if len(self._buffer) < len(self._delimiter):
            return None
        if not self._buffer.startswith(self._delimiter):
            raise _malformed("it does not begin with its delimiter")
        self._buffer = self._buffer[len(self._delimiter) :]
        self._state = self._delimited
        return b""

    def _delimited(self) -> bytes | None:
        if len(self._buffer) < 2:
            return None
        after, self._buffer = self._buffer[:2], self._buffer[2:]
        if after == b"--":
            self.over = True
            self._state = self._epilogue
        elif after == b"\r\n":
            self._state = self._head
        else:
            raise _malformed("a delimiter is followed by something else")
        return b""

    def _epilogue(self) -> bytes | None:
        self._buffer = b""
        return None

    def _head(self) -> bytes | None:
        at = self._buffer.find(b"\r\n\r\n")
        if at < 0 and len(self._buffer) <= _HEAD_MAX:
            return None
        if not 0 < at <= _HEAD_MAX:
            raise _malformed("a part's head is too long, or empty")
        head, self._buffer = self._buffer[:at], self._buffer[at + 4 :]
        self._begin(head)
        return b""

    def _begin(self, head: bytes) -> None:
        headers: dict[bytes, bytes] = {}
        for line in head.split(b"\r\n"):
            name, colon, value = line.partition(b":")
            if not colon or name.lower() in headers:
                raise _malformed("a part's head cannot be read")
            headers[name.lower()] = value.strip()
        found = _DISPOSITION.fullmatch(headers.get(b"content-disposition", b""))
        names = _NAME.findall(found[1]) if found else []
        if found is None or len(names) != 1:
            raise _malformed("a part has no name, or one that no engine knows")
        self._name = names[0].decode()
        filename = _FILENAME.search(found[1])
        if filename is None:
            if self._name == FILE:
                raise bad_request("invalid_type", "`file` must be a file.", FILE)
            if len(self.fields) >= _FIELDS_MAX:
                raise _malformed("it has too many fields")
            self._state = self._field
            return
        if self._name != FILE or self.file:
            message = f"The form takes one file, named `{FILE}`."
            raise bad_request("unsupported_parameter", message, self._name)
        self.file = self._file_head(filename[3], headers.get(b"content-type", b""))
        self._state = self._content

    def _file_head(self, name: bytes, kind: bytes) -> bytes:
        name = name if _PLAIN_FILENAME.fullmatch(name) else b"audio"
        kind = kind if _PLAIN_TYPE.fullmatch(kind) else b"application/octet-stream"
        disposition = b'content-disposition: form-data; name="file"; filename="%b"\r\n' % name
        return b"--%b\r\n%bcontent-type: %b\r\n\r\n" % (self.mark, disposition, kind)

    def _field(self) -> bytes | None:
        at = self._buffer.find(self._delimiter)
        if at > _FIELD_MAX or (at < 0 and len(self._buffer) > _FIELD_MAX + len(self._delimiter)):
            message = f"`{self._name}` is longer than {_FIELD_MAX} bytes."
            raise bad_request("field_too_long", message, self._name)
        if at < 0:
            return None
        self.fields.append((self._name, self._buffer[:at]))
        self._past(at)
        return b""

    def _content(self) -> bytes | None:
        at = self._buffer.find(self._delimiter)
        if at < 0:
            # The end may be the beginning of the delimiter.
            at = len(self._buffer) - len(self._delimiter) + 1
            if at <= 0:
                return None
            found, self._buffer = self._buffer[:at], self._buffer[at:]
            return found
        found = self._buffer[:at] + b"\r\n"  # with the line end that parts it from what follows
        self._past(at)
        return found

    def _past(self, at: int) -> None:
        self._buffer = self._buffer[at + len(self._delimiter) :]
        self._state = self._delimited

    # --- framing anew -----------------------------------------------------------------
    def field(self, name: str, value: bytes) -> bytes:
        """A field's part; its value stood in this form, or is a plain word of ours."""
        head = b'--%b\r\ncontent-disposition: form-data; name="%b"' % (self.mark, name.encode())
        return b"%b\r\n\r\n%b\r\n" % (head, value)

    def close(self) -> bytes:
        return b"--%b--\r\n" % self.mark


def _malformed(what: str) -> ApiError:
    return bad_request("malformed_form", f"The body is not a form: {what}.")
