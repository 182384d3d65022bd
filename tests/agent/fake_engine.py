"""A stand-in for an engine: a real process, in a session of its own, on a unix socket.

The model's name says how it behaves: `ok`, `crash`, `slow-start` (never listens), `sick` (never
passes its probe), `stubborn` (ignores SIGTERM), `mortal` (ends when its socket is asked to).
"""

import http.server
import os
import signal
import socketserver
import subprocess
import sys
import time
from pathlib import Path


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def address_string(self) -> str:
        return "socket"

    def do_GET(self) -> None:
        behaviour: str = self.server.behaviour  # type: ignore[attr-defined]
        if self.path == "/die":
            os._exit(7)
        status = 503 if behaviour == "sick" and self.path == "/probe" else 200
        body = b"x" * int(self.path.rpartition("/")[2]) if "/bytes/" in self.path else b"alive"
        self.send_response(status)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        print(f"GET {self.path}", flush=True)


class Server(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    daemon_threads = True


def main(socket: str, behaviour: str) -> None:
    print("loading weights", flush=True)
    if behaviour == "crash":
        print("out of memory", flush=True)
        sys.exit(1)
    if behaviour == "stubborn":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        # A child that outlives its parent unless the whole group is ended.
        subprocess.Popen([sys.executable, "-c", "import signal; signal.pause()"])
    if behaviour == "slow-start":
        signal.pause()
    if behaviour.startswith("listens-when:"):
        while not Path(behaviour.removeprefix("listens-when:")).exists():
            time.sleep(0.02)
    Path(socket).unlink(missing_ok=True)
    with Server(socket, Handler) as server:
        server.behaviour = behaviour  # type: ignore[attr-defined]
        print("listening", flush=True)
        server.serve_forever(poll_interval=0.05)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
