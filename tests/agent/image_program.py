"""What the image of the tests runs: a small server, and a program that tries what it can reach.

    image_program.py [PORT]                serve
    image_program.py reach TARGET...       one JSON line for each: what was tried, and what came

A TARGET is tcp:HOST:PORT, unix:PATH, file:PATH, folder:PATH, write:PATH or signal:PID. Standard
library alone.
"""

import http.client
import http.server
import json
import os
import socket
import sys
import time


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        path, _, query = self.path.partition("?")
        if path == "/crash":
            print("it cannot go on", flush=True)
            os._exit(7)
        elif path == "/fill":
            kept = bytearray()
            while True:
                kept += os.urandom(1 << 20) * 16
        elif path == "/environment":
            self.say(dict(os.environ))
        elif path == "/status":
            with open("/proc/self/status") as file:
                self.say(dict(line.rstrip("\n").split(":\t", 1) for line in file if ":\t" in line))
        elif path == "/reach":
            self.say([reach(target) for target in query.split(",")])
        elif path == "/fetch":
            self.fetch(query)
        elif path == "/slow":
            self.stream(int(query or 10))
        else:
            self.say({"healthy": True}, 200 if path in ("/health", "/healthz") else 404)

    def do_POST(self) -> None:
        asked = self.rfile.read(int(self.headers.get("content-length", 0)))
        if self.path == "/v1/completions":
            self.say({"choices": [{"text": "a", "index": 0}], "usage": usage()})
        elif self.path == "/v1/chat/completions":
            message = {"role": "assistant", "content": "an image answers"}
            choice = {"index": 0, "message": message, "finish_reason": "stop"}
            self.say({"id": "c", "choices": [choice], "usage": usage()})
        elif self.path == "/echo":
            self.say({"echo": asked.decode()})
        else:
            self.say({"error": "no such path"}, 404)

    def say(self, content: object, status: int = 200) -> None:
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def stream(self, count: int) -> None:
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.send_header("connection", "close")
        self.end_headers()
        for number in range(count):
            self.wfile.write(f"data: {number}\n\n".encode())
            self.wfile.flush()
            time.sleep(0.1)
        self.close_connection = True

    def fetch(self, url: str) -> None:
        """Through the proxy that its variables name."""
        host, _, port = os.environ["HTTP_PROXY"].removeprefix("http://").rpartition(":")
        connection = http.client.HTTPConnection(host, int(port), timeout=60)
        try:
            connection.request("GET", url)
            answer = connection.getresponse()
            self.say({"status": answer.status, "body": answer.read(1000).decode()})
        except (OSError, http.client.HTTPException) as error:
            self.say({"status": 0, "body": f"{type(error).__name__}: {error}"})
        finally:
            connection.close()

    def log_message(self, format: str, *arguments: object) -> None:
        print("asked:", *arguments, flush=True)


def usage() -> dict[str, int]:
    return {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}


def reach(target: str) -> dict[str, object]:
    kind, _, what = target.partition(":")
    try:
        return {"target": target, "reached": True, "said": _try(kind, what)}
    except OSError as error:
        return {"target": target, "reached": False, "said": f"{type(error).__name__}: {error}"}


def _try(kind: str, what: str) -> str:
    if kind == "tcp":
        host, _, port = what.rpartition(":")
        with socket.create_connection((host.strip("[]"), int(port)), timeout=3):
            return "connected"
    if kind == "unix":
        with socket.socket(socket.AF_UNIX) as one:
            one.settimeout(3)
            one.connect(what)
            return "connected"
    if kind == "file":
        with open(what, "rb") as file:
            return f"{len(file.read(100))} bytes"
    if kind == "folder":
        return f"{len(os.listdir(what))} entries"
    if kind == "write":
        with open(what, "w") as file:
            file.write("x")
        return "written"
    if kind == "signal":
        os.kill(int(what), 0)
        return "it could be signalled"
    raise OSError(f"no such kind: {kind}")


def main() -> None:
    if sys.argv[1:2] == ["reach"]:
        for target in sys.argv[2:]:
            print(json.dumps(reach(target)))
        return
    port = int(sys.argv[1]) if len(sys.argv) > 1 else 8000
    print(f"serving on {port}", flush=True)
    http.server.ThreadingHTTPServer(("127.0.0.1", port), Handler).serve_forever()


if __name__ == "__main__":
    main()
