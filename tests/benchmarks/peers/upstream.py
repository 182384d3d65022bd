"""The canned engine that all stand in front of: one nginx that answers as vLLM does.

A short request gets a JSON answer at once, a stream gets 64 chunks of one token, 5 ms apart, and
a prompt that says so a stream of one chunk that then stays open. It listens on 4 unix sockets and
4 ports: the replicas of an endpoint.
"""

import json
from dataclasses import dataclass
from pathlib import Path

from tests.benchmarks.peers.processes import Program
from workers.local.embedded import free_port

REPLICAS = 4
CHUNKS = 64
CHUNK_S = 0.005
MODEL = "m"
IDLE = "say one word and wait"

_MODULES = "/usr/lib/nginx/modules"
_CONFIG = """\
load_module {modules}/ndk_http_module.so;
load_module {modules}/ngx_http_lua_module.so;
worker_processes 1; daemon off; pid {folder}/upstream.pid; error_log {folder}/upstream.err;
events {{ worker_connections 65536; }}
http {{
  access_log off; keepalive_requests 100000000; keepalive_timeout 600s;
  client_body_buffer_size 256k; lua_check_client_abort on; {temporary}
  server {{
    {listens}
    location = /health {{ return 200 "ok"; }}
    location = /v1/models {{ default_type application/json; return 200 '{models}'; }}
    location = /v1/chat/completions {{
      default_type application/json;
      content_by_lua_block {{
        ngx.req.read_body()
        local body = ngx.req.get_body_data() or ""
        if not string.find(body, '"stream":%s*true') then
          ngx.header.content_length = {short_length}
          ngx.print([==[{short}]==])
          return
        end
        ngx.header.content_type = "text/event-stream"
        local idle = string.find(body, "{idle}", 1, true)
        for _ = 1, idle and 1 or {chunks} do
          ngx.print([==[{chunk}]==])
          ngx.flush(true)
          ngx.sleep({chunk_s})
        end
        if idle then ngx.sleep(3600) end
        ngx.print([==[{last}]==])
      }}
    }}
    location / {{ return 404; }}
  }}
}}
"""


def event(**fields: object) -> str:
    made = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1_700_000_000}
    return f"data: {_json({**made, 'model': MODEL, **fields})}\n\n"


def _json(value: object) -> str:
    return json.dumps(value, separators=(",", ":"))


def _usage(output_tokens: int) -> dict[str, int]:
    total = 20 + output_tokens
    return {"prompt_tokens": 20, "completion_tokens": output_tokens, "total_tokens": total}


def short() -> str:
    said = {"role": "assistant", "content": "Hello there, how are you doing today?"}
    return _json(
        {
            "id": "chatcmpl-1",
            "object": "chat.completion",
            "created": 1_700_000_000,
            "model": MODEL,
            "choices": [{"index": 0, "message": said, "finish_reason": "stop"}],
            "usage": _usage(9),
        }
    )


def chunk() -> str:
    said = {"index": 0, "delta": {"content": " tok"}, "finish_reason": None}
    return event(choices=[said])


def last() -> str:
    stop = {"index": 0, "delta": {}, "finish_reason": "stop"}
    usage = event(choices=[], usage=_usage(CHUNKS))
    return f"{event(choices=[stop])}{usage}data: [DONE]\n\n"


def question(content: str, *, stream: bool = False, model: str = MODEL) -> str:
    """The request that all are asked, as JSON."""
    messages = [
        {"role": "system", "content": "You are a helpful assistant that answers briefly."},
        {"role": "user", "content": content},
    ]
    body: dict[str, object] = {"model": model, "messages": messages, "max_tokens": CHUNKS}
    if stream:
        body |= {"stream": True, "stream_options": {"include_usage": True}}
    return _json(body)


def temporary(folder: Path) -> str:
    """nginx's folders for temporary files, so that it needs nobody's rights."""
    kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    return " ".join(f"{kind}_temp_path {folder}/{kind};" for kind in kinds)


@dataclass
class Upstream:
    program: Program
    sockets: list[Path]
    ports: list[int]

    @classmethod
    def start(cls, nginx: str, folder: Path) -> "Upstream":
        sockets = [folder / f"replica{number}.sock" for number in range(REPLICAS)]
        ports = [free_port() for _ in range(REPLICAS)]
        addresses = [*(f"unix:{path}" for path in sockets), *(f"127.0.0.1:{p}" for p in ports)]
        config = folder / "upstream.conf"
        config.write_text(
            _CONFIG.format(
                modules=_MODULES,
                folder=folder,
                temporary=temporary(folder),
                listens=" ".join(f"listen {address} backlog=8192;" for address in addresses),
                models=_json({"object": "list", "data": [{"id": MODEL, "object": "model"}]}),
                short=short(),
                short_length=len(short()),
                chunks=CHUNKS,
                chunk_s=CHUNK_S,
                chunk=chunk(),
                last=last(),
                idle=IDLE,
            )
        )
        for path in sockets:
            path.unlink(missing_ok=True)
        program = Program.start([nginx, "-c", str(config)], folder / "upstream.log")
        program.listens(ports[-1])
        return cls(program, sockets, ports)

    def stop(self) -> None:
        self.program.stop()
