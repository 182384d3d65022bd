"""HTTP/1.1 by hand: tests must be able to send what no client library would."""

import json
import socket
import ssl
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

TIMEOUT_S = 10.0


@dataclass(frozen=True)
class Response:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def error(self) -> dict[str, Any]:
        found: dict[str, Any] = self.json["error"]
        return found

    @property
    def events(self) -> list[Any]:
        """The data of server-sent events; [DONE] stays a string."""
        lines = [line[6:] for line in self.body.decode().split("\n") if line.startswith("data: ")]
        return [line if line == "[DONE]" else json.loads(line) for line in lines]


class Connection:
    def __init__(self, port: int, tls: ssl.SSLContext | None = None) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), TIMEOUT_S)
        if tls is not None:  # a handshake that fails closes the socket
            self._socket = tls.wrap_socket(self._socket, server_hostname="127.0.0.1")
        self._buffer = b""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        self._socket.close()

    def timeout(self, seconds: float) -> None:
        self._socket.settimeout(seconds)

    def send(self, data: bytes) -> None:
        self._socket.sendall(data)

    def get(self, path: str, *, key: str | None) -> None:
        line = f"authorization: Bearer {key}\r\n" if key else ""
        self.send(f"GET {path} HTTP/1.1\r\nhost: x\r\n{line}\r\n".encode())

    def post(
        self,
        path: str,
        body: bytes | dict[str, Any],
        *,
        key: str | None,
        headers: dict[str, str] | None = None,
    ) -> None:
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        given = {"host": "x", "content-type": "application/json", "content-length": str(len(raw))}
        if key:
            given["authorization"] = f"Bearer {key}"
        lines = "".join(
            f"{name}: {value}\r\n" for name, value in {**given, **(headers or {})}.items()
        )
        self.send(f"POST {path} HTTP/1.1\r\n{lines}\r\n".encode() + raw)

    def read_until(self, mark: bytes) -> bytes:
        """Everything up to and with `mark`; raises EOFError when the connection ends before."""
        while mark not in self._buffer:
            self._more()
        end = self._buffer.index(mark) + len(mark)
        found, self._buffer = self._buffer[:end], self._buffer[end:]
        return found

    def _more(self) -> None:
        data = self._socket.recv(65536)
        if not data:
            raise EOFError(self._buffer)
        self._buffer += data

    def exactly(self, size: int) -> bytes:
        while len(self._buffer) < size:
            self._more()
        found, self._buffer = self._buffer[:size], self._buffer[size:]
        return found

    def head(self) -> tuple[int, dict[str, str]]:
        line, *rest = self.read_until(b"\r\n\r\n").decode().strip().split("\r\n")
        headers = dict(header.split(": ", 1) for header in rest)
        return int(line.split(" ")[1]), headers

    def chunk(self) -> bytes:
        """The next chunk of a chunked body; empty at its end."""
        data = self.chunk_only()
        if not data:
            assert self.exactly(2) == b"\r\n"  # no trailer
        return data

    def chunk_only(self) -> bytes:
        """The same; at the end its trailers, and the empty line, are still to be read."""
        size = int(self.read_until(b"\r\n"), 16)
        return self.exactly(size + 2)[:-2] if size else b""

    def response(self) -> Response:
        status, headers = self.head()
        if status == 100:
            return Response(status, headers, b"")
        if headers.get("transfer-encoding") == "chunked":
            body = b""
            while data := self.chunk():
                body += data
        elif "content-length" in headers:
            body = self.exactly(int(headers["content-length"]))
        else:
            body = self.rest()
        return Response(status, headers, body)

    def rest(self) -> bytes:
        """Everything until the other side closes."""
        try:
            while True:
                self._more()
        except EOFError:
            rest, self._buffer = self._buffer, b""
            return rest

    @property
    def closed(self) -> bool:
        """Whether the other side closes (waits for it)."""
        return self.rest() == b""
