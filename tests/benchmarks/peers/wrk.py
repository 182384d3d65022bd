"""Load from wrk: closed loop, one thread, so and so many connections."""

import json
import random
import subprocess
from dataclasses import dataclass, field, replace
from pathlib import Path

from tests.benchmarks.peers.install import WRK
from tests.benchmarks.peers.processes import PeerError

PATH = "/v1/chat/completions"

_SCRIPT = """\
wrk.method = "POST"
{headers}
wrk.body = {body}
function done(summary, latency, requests)
  local e = summary.errors
  io.write(string.format('\\n{{"requests":%d,"us":%d,"errors":%d}}\\n', summary.requests,
    summary.duration, e.connect + e.read + e.write + e.status + e.timeout))
end
"""
# A request of its own for each word in a file, in turn: other keys, or other models.
_ROTATION = """
local words, at = {{}}, {at}
for word in io.lines({file}) do words[#words + 1] = word end
local mark = {mark}
local parts
function init(args)
  local whole = wrk.format(nil, {path})
  local from, to = string.find(whole, mark, 1, true)
  parts = {{string.sub(whole, 1, from - 1), string.sub(whole, to + 1)}}
end
function request()
  at = at % #words + 1
  return parts[1] .. words[at] .. parts[2]
end
"""
MARK = "WORD-IN-TURN"


@dataclass(frozen=True)
class Request:
    """A POST. Each of the `words` in a file stands for MARK in turn; in a body, as long as it."""

    body: str
    headers: dict[str, str] = field(default_factory=dict)
    words: Path | None = None
    at: int | None = None  # the word to begin behind; None: anywhere

    def beginning(self, at: int) -> "Request":
        return replace(self, at=at)

    def raw(self) -> bytes:
        headers = {"Host": "127.0.0.1", "Content-Type": "application/json", **self.headers}
        lines = [f"POST {PATH} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items())]
        lines += [f"Content-Length: {len(self.body)}", "", self.body]
        return "\r\n".join(lines).encode()

    def script(self) -> str:
        headers = {"Content-Type": "application/json", **self.headers}
        lines = [f"wrk.headers[ {_lua(name)} ] = {_lua(text)}" for name, text in headers.items()]
        made = _SCRIPT.format(headers="\n".join(lines), body=_lua(self.body))
        if self.words is None:
            return made
        at = random.randrange(1 << 20) if self.at is None else self.at
        return made + _ROTATION.format(
            file=_lua(str(self.words)), mark=_lua(MARK), path=_lua(PATH), at=at
        )


@dataclass(frozen=True)
class Result:
    requests: int
    seconds: float
    errors: int

    @property
    def per_s(self) -> float:
        return self.requests / self.seconds


def run(port: int, request: Request, folder: Path, seconds: float, connections: int) -> Result:
    """Raises PeerError when nothing was answered."""
    script = folder / "wrk.lua"
    script.write_text(request.script())
    command = [WRK, "-t1", f"-c{connections}", f"-d{max(1, round(seconds))}s", "--timeout", "30s"]
    command += ["-s", str(script), f"http://127.0.0.1:{port}{PATH}"]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise PeerError(f"wrk: {(done.stderr or done.stdout).strip()[-200:]}")
    result = parse(done.stdout)
    if not result.requests or result.errors > result.requests // 100:
        raise PeerError(f"{result.errors} errors in {result.requests} answers")
    return result


def parse(output: str) -> Result:
    """The line of our script's `done` in what wrk prints."""
    found = json.loads(output.strip().splitlines()[-1])
    return Result(found["requests"], found["us"] / 1e6, found["errors"])


def _lua(text: str) -> str:
    return "[==[" + text + "]==]"
