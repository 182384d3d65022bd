"""Makes today's agent an agent of wire version 1: it says what that one knew, in its own way (to
the web process, signed, without a version), and takes what that one took, by its recorded rules."""

import contextlib
import http.server
import json
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import Any

import httpx
import jsonschema

from controlplane.fleet import wire
from workers.agent import credential

SCHEMA = json.loads(
    (Path(__file__).parents[1] / "fleet" / "recorded" / "1" / "schema.json").read_text()
)
SAID = {"enroll": "EnrollRequest", "renew": "RenewRequest", "report": "Report", "logs": "LogChunk"}
TOLD = {
    "enroll": "Credential",
    "renew": "Credential",
    "desired": "Desired",
    "report": "ReportReply",
}


def pruned(value: Any, rules: dict[str, Any]) -> Any:
    """`value` without the fields that version 1 does not have."""
    if "$ref" in rules:
        rules = SCHEMA["$defs"][rules["$ref"].rpartition("/")[2]]
    if "anyOf" in rules:
        rules = next((one for one in rules["anyOf"] if "$ref" in one or "items" in one), {})
        return pruned(value, rules) if value is not None else None
    if isinstance(value, list):
        return [pruned(one, rules.get("items", {})) for one in value]
    known = rules.get("properties")
    if not isinstance(value, dict) or known is None:
        return value
    return {name: pruned(one, known[name]) for name, one in value.items() if name in known}


class OlderAgent:
    """Between an agent of `directory` and the web process at `url`."""

    def __init__(self, url: str, directory: Path) -> None:
        self.refused: list[str] = []  # what an agent of version 1 could not have read
        self.lists = 0
        older = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                self._pass(b"")

            def do_POST(self) -> None:
                self._pass(self.rfile.read(int(self.headers.get("content-length", 0))))

            def _pass(self, body: bytes) -> None:
                status, content = older.ask(url, directory, self.command, self.path, body)
                self.send_response(status)
                self.send_header("content-length", str(len(content)))
                self.end_headers()
                with contextlib.suppress(ConnectionError):  # an agent that was stopped
                    self.wfile.write(content)

            def log_message(self, format: str, *args: object) -> None:
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> "OlderAgent":
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def ask(
        self, url: str, directory: Path, method: str, path: str, body: bytes
    ) -> tuple[int, bytes]:
        call = path.removeprefix("/agent/v1/").partition("?")[0]
        if message := SAID.get(call):
            said = pruned(json.loads(body), {"$ref": f"#/$defs/{message}"})
            jsonschema.validate(said, {"$ref": f"#/$defs/{message}", **SCHEMA})
            body = json.dumps(said).encode()
        identity = credential.load(directory)
        headers = identity.headers(method, path, body, time.time()) if identity else {}
        try:
            answer = httpx.request(method, url + path, content=body, headers=headers, timeout=60)
        except httpx.HTTPError:
            return 503, b""
        if answer.status_code == 200 and (told := TOLD.get(call)):
            try:
                jsonschema.validate(answer.json(), {"$ref": f"#/$defs/{told}", **SCHEMA})
            except jsonschema.ValidationError as error:
                self.refused.append(f"{told}: {error.message}")
            self.lists += call == "desired" and answer.json()["replicas"] is not None
        assert answer.headers[wire.VERSION_HEADER] == str(wire.VERSION)
        return answer.status_code, answer.content
