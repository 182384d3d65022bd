"""A stand-in for an engine: a real process, in a session of its own, on a unix socket.

The model's name says how it behaves: `ok`, `crash`, `slow-start` (never listens), `sick` (never
passes its probe), `stubborn` (ignores SIGTERM), `mortal` (ends when its socket is asked to),
`insomniac` (refuses to sleep), `loads:SECONDS` (says something new all that time, then listens),
`computes` (for ever, and says nothing).

It answers completions with as many words as are asked for, after 50 ms. It sleeps as vLLM does:
over HTTP, and asleep it passes no probe. `/work` makes it busy until `/rest`, `/stream/COUNT` while
it counts so far; `/slept` says what it was told.
"""

import http.server
import json
import os
import signal
import socketserver
import subprocess
import sys
import time
from pathlib import Path
from typing import ClassVar


class Server(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    daemon_threads = True
    behaviour = ""
    asleep = False
    busy = streams = 0
    adapters: ClassVar[set[str]] = set()


TOLD: list[str] = []


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server

    def address_string(self) -> str:
        return "socket"

    def do_GET(self) -> None:
        engine = self.server
        match self.path:
            case "/die":
                os._exit(7)
            case "/work" | "/rest":
                engine.busy = int(self.path == "/work")
                self.answer(200)
            case path if path.startswith("/stream/"):
                self.count(int(path.rpartition("/")[2]))
            case "/load":
                self.answer(200, json.dumps({"server_load": engine.streams}).encode())
            case "/metrics":
                count = f'vllm:num_requests_running{{engine="0"}} {engine.busy:.1f}\n'
                self.answer(200, count.encode())
            case "/is_sleeping":
                self.answer(200, json.dumps({"is_sleeping": engine.asleep}).encode())
            case "/slept":
                self.answer(200, json.dumps(TOLD).encode())
            case "/probe":
                self.answer(503 if engine.asleep or engine.behaviour == "sick" else 200)
            case "/adapters":
                self.answer(200, json.dumps(sorted(engine.adapters)).encode())
            case path if path.startswith(("/load/", "/unload/")):
                _, verb, id = path.split("/")
                (engine.adapters.add if verb == "load" else engine.adapters.discard)(id)
                self.answer(200)
            case path:
                long = "/bytes/" in path
                self.answer(200, b"x" * int(path.rpartition("/")[2]) if long else b"alive")

    def do_POST(self) -> None:
        engine = self.server
        if self.path.startswith("/v1/"):
            self.complete()
            return
        if self.path.startswith("/sleep") and engine.behaviour == "insomniac":
            self.answer(500, b"no memory to sleep in")
            return
        TOLD.append(self.path)
        engine.asleep = self.path.startswith("/sleep")
        self.answer(200, b"{}")

    def complete(self) -> None:
        """One word for each token that was asked for; a prompt has as many as it has words."""
        asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
        words, most = len(str(asked.get("prompt", "")).split()), int(asked.get("max_tokens", 1))
        time.sleep(0.05)
        said = {"index": 0, "text": "word " * most, "finish_reason": "length", "logprobs": None}
        usage = {"prompt_tokens": words, "completion_tokens": most, "total_tokens": words + most}
        told = {"id": "cmpl-1", "object": "text_completion", "created": 1, "model": "fake"}
        self.answer(200, json.dumps({**told, "choices": [said], "usage": usage}).encode())

    def count(self, to: int) -> None:
        """A number in a line, twenty a second."""
        self.server.streams += 1
        self.send_response(200)
        self.send_header("connection", "close")
        self.end_headers()
        for number in range(to):
            self.wfile.write(f"{number}\n".encode())
            time.sleep(0.05)
        self.server.streams -= 1

    def answer(self, status: int, body: bytes = b"alive") -> None:
        self.send_response(status)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        print(f"GET {self.path}", flush=True)


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
    while behaviour == "computes":
        pass
    if behaviour.startswith("loads:"):
        until, word = time.monotonic() + float(behaviour.removeprefix("loads:")), "layer "
        while time.monotonic() < until:
            word += "x"  # with other numbers alone it would be no news
            print(word, flush=True)
            time.sleep(0.1)
    if behaviour.startswith("listens-when:"):
        while not Path(behaviour.removeprefix("listens-when:")).exists():
            time.sleep(0.02)
    Path(socket).unlink(missing_ok=True)
    with Server(socket, Handler) as server:
        server.behaviour = behaviour
        print("listening", flush=True)
        server.serve_forever(poll_interval=0.05)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
