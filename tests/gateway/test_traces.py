"""Spans: whose children they are, what they say and never say, and a collector that is away."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway import trace_settings, tracer
from gateway.config import Config, ConfigError
from gateway.trace import Sampler
from gateway.trace_settings import TraceSettings
from gateway.tracer import Tracer
from tests.gateway.rig import Rig
from workers.local.embedded import free_port

CHAT = "/v1/chat/completions"
PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
SECRETS = ("alpha-prompt", "beta-system", "gamma-user", "delta-metadata", "epsilon-run")


class Collector:
    """Takes what an OpenTelemetry collector takes; answers with the statuses it is given first."""

    def __init__(self) -> None:
        self.statuses: list[int] = []
        self.bodies: list[bytes] = []
        self.headers: list[dict[str, str]] = []
        collector = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                status = collector.statuses.pop(0) if collector.statuses else 200
                if status == 200:
                    collector.bodies.append(body)
                    collector.headers.append({k.lower(): v for k, v in self.headers.items()})
                self.send_response(status)
                self.send_header("content-length", "2")
                self.end_headers()
                self.wfile.write(b"{}")

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self._server = HTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever)
        self._thread.start()

    def stop(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    @property
    def spans(self) -> list[dict[str, Any]]:
        """With their attributes as a plain mapping."""
        found = []
        for body in list(self.bodies):
            for resource in json.loads(body)["resourceSpans"]:
                for scope in resource["scopeSpans"]:
                    found += [{**span, "attributes": flat(span)} for span in scope["spans"]]
        return found


def flat(thing: dict[str, Any]) -> dict[str, Any]:
    values = {one["key"]: one["value"] for one in thing["attributes"]}
    return {
        key: int(value["intValue"]) if "intValue" in value else next(iter(value.values()))
        for key, value in values.items()
    }


@pytest.fixture
def collector() -> Iterator[Collector]:
    made = Collector()
    yield made
    made.stop()


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracer, "_EVERY_S", 0.02)


def trace(rig: Rig, url: str, **settings: Any) -> Tracer:
    found = TraceSettings(url=url, resource={"service.name": "gw"}, sampler=Sampler(), **settings)

    async def begin() -> Tracer:
        made = rig.server.context.tracer = Tracer(found)
        made.start()
        return made

    rig.endpoint("tiny", [rig.engine("ep_tiny")])
    return rig.run(begin())


def test_a_request_is_two_spans_below_the_callers(rig: Rig, collector: Collector) -> None:
    trace(rig, collector.url, headers={"authorization": "Bearer collector"})
    body = {"model": "tiny", "messages": [], "stream": True, "user": "tokens=4;delay=0.02", "n": 2}
    reply = rig.post(CHAT, body, headers={"traceparent": PARENT})
    rig.until(lambda: len(collector.spans) == 2)
    server, asking = collector.spans
    assert collector.headers[0]["authorization"] == "Bearer collector"
    assert collector.headers[0]["content-type"] == "application/json"
    assert {server["traceId"], asking["traceId"]} == {PARENT[3:35]}
    assert server["parentSpanId"] == PARENT[36:52]
    assert asking["parentSpanId"] == server["spanId"]
    assert (server["kind"], asking["kind"]) == (2, 3)
    assert (server["name"], asking["name"]) == (f"POST {CHAT}", "chat tiny")
    assert rig.engines[0].seen[0].headers["traceparent"] == (
        f"00-{PARENT[3:35]}-{asking['spanId']}-01"
    )
    said = asking["attributes"]
    assert said.pop("gen_ai.response.time_to_first_chunk") >= 0.015
    assert said == {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "stoa",
        "gen_ai.request.model": "tiny",
        "gen_ai.response.model": "org/model",
        "gen_ai.request.stream": True,
        "gen_ai.request.choice.count": 2,
        "gen_ai.usage.input_tokens": 7,
        "gen_ai.usage.cache_read.input_tokens": 3,
        "gen_ai.usage.output_tokens": 8,
        "stoa.replica.id": "rep_tiny_0",
    }
    assert server["attributes"]["http.response.status_code"] == 200
    assert server["attributes"]["stoa.request.id"] == reply.headers["x-request-id"]
    times = [int(span[name]) for span in (server, asking) for name in ("startTimeUnixNano",)]
    ends = [int(span["endTimeUnixNano"]) for span in (asking, server)]
    assert times == sorted(times) and times[1] + 70_000_000 <= ends[0] <= ends[1]


def test_an_error_is_said(rig: Rig, collector: Collector) -> None:
    trace(rig, collector.url)
    rig.chat("tiny", user="error=500")
    rig.until(lambda: len(collector.spans) == 2)
    server, asking = collector.spans
    assert "parentSpanId" not in server  # it begins here
    assert server["status"] == asking["status"] == {"code": 2}
    assert server["attributes"]["error.type"] == "engine_error"


def test_nothing_personal_and_no_content(rig: Rig, collector: Collector) -> None:
    trace(rig, collector.url)
    messages = [
        {"role": "system", "content": "beta-system"},
        {"role": "user", "content": "alpha-prompt"},
    ]
    body = {"model": "tiny", "messages": messages, "metadata": {"team": "delta-metadata"}}
    headers = {
        "x-stoa-run": "epsilon-run",
        "x-request-id": "gamma-user",
        "tracestate": "gamma-user=1",
    }
    rig.post(CHAT, body, headers=headers)
    rig.until(lambda: len(collector.spans) == 2)
    text = b"".join(collector.bodies).decode()
    assert not [word for word in (*SECRETS, "toktok") if word in text]
    assert set(rig.engines[0].seen[0].headers) - {"traceparent"} == {
        "host",
        "content-type",
        "content-length",
        "x-request-id",
    }


def test_what_is_not_sampled_is_not_told_and_the_engine_knows(
    rig: Rig, collector: Collector
) -> None:
    trace(rig, collector.url)
    rig.post(CHAT, {"model": "tiny", "messages": []}, headers={"traceparent": PARENT[:-1] + "0"})
    rig.chat("tiny")
    rig.until(lambda: len(collector.spans) == 2)
    assert PARENT[3:35] not in {span["traceId"] for span in collector.spans}
    assert rig.engines[0].seen[0].headers["traceparent"].endswith("-00")


def test_without_a_collector_nothing_is_added(tiny: Rig) -> None:
    tiny.post(CHAT, {"model": "tiny", "messages": []}, headers={"traceparent": PARENT})
    assert "traceparent" not in tiny.engines[0].seen[0].headers


def test_a_collector_that_stumbles_is_asked_again(
    rig: Rig, collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tracer, "_PAUSE_S", 0.01)
    collector.statuses = [503, 429]
    made = trace(rig, collector.url)
    rig.chat("tiny")
    rig.until(lambda: len(collector.spans) == 2)
    collector.statuses = [400]
    rig.chat("tiny")
    rig.until(lambda: made.lost == 1)


def test_a_collector_that_is_away_holds_nobody_up(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tracer, "_PENDING", 3)
    monkeypatch.setattr(tracer, "_EVERY_S", 60.0)
    made = trace(rig, f"http://127.0.0.1:{free_port()}")
    for _ in range(5):
        assert rig.chat("tiny").status == 200
    assert made.dropped == 2
    made.stop()
    assert made.lost == 3


@given(st.binary(max_size=70))
def test_any_header_gives_a_trace(header: bytes) -> None:
    found = Sampler().begin(header)
    assert len(found.id) == 32 and int(found.id, 16)
    assert found.header().startswith(f"traceparent: 00-{found.id}-".encode())


@pytest.mark.parametrize(
    ("header", "continued"),
    [
        (PARENT, True),
        (PARENT.replace("00-", "cc-", 1) + "-more", True),  # a later version says more
        (PARENT + "-more", False),
        (PARENT.replace("00-", "ff-", 1), False),
        (PARENT.upper(), False),
        (f"00-{'0' * 32}-b7ad6b7169203331-01", False),
        (f"00-{'a' * 32}-{'0' * 16}-01", False),
    ],
)
def test_parents(header: str, continued: bool) -> None:
    found = Sampler().begin(header.encode())
    assert (found.parent == "b7ad6b7169203331") is continued


def test_a_share_is_kept() -> None:
    kept = sum(Sampler(0.25).begin(None).sampled for _ in range(4000))
    assert 700 < kept < 1300
    assert Sampler(0.0).begin(PARENT.encode()).sampled
    assert not Sampler(0.0, follows=False).begin(PARENT.encode()).sampled


def test_settings_are_opentelemetrys() -> None:
    assert trace_settings.of({}) is None
    base = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318/"}
    found = trace_settings.of(
        {
            **base,
            "OTEL_EXPORTER_OTLP_HEADERS": "authorization=Bearer%20x,tenant=a",
            "OTEL_RESOURCE_ATTRIBUTES": "deployment.environment.name=prod",
            "OTEL_EXPORTER_OTLP_TRACES_TIMEOUT": "500",
            "OTEL_TRACES_SAMPLER": "traceidratio",
            "OTEL_TRACES_SAMPLER_ARG": "0.5",
        }
    )
    assert found is not None
    assert found.url == "http://c:4318/v1/traces"
    assert found.headers == {"authorization": "Bearer x", "tenant": "a"}
    assert found.resource["service.name"] == "stoa-gateway"
    assert (found.timeout_s, found.sampler) == (0.5, Sampler(0.5, follows=False))
    assert "Bearer" not in repr(found)
    exact = trace_settings.of({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "https://c/x"})
    assert exact is not None and exact.url == "https://c/x"
    assert trace_settings.of({**base, "OTEL_SDK_DISABLED": "true"}) is None
    for name, value in (
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc"),
        ("OTEL_TRACES_SAMPLER", "some"),
        ("OTEL_EXPORTER_OTLP_TIMEOUT", "soon"),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "c:4318"),
    ):
        with pytest.raises(ValueError, match=name):
            trace_settings.of({**base, name: value})


def test_a_wrong_setting_stops_the_start() -> None:
    environ = {
        "STOA_GATEWAY_DATABASE_URL": "postgresql://x",
        "STOA_KEY_PEPPER": "p",
        "STOA_GATEWAY_DIR": "/tmp/x",
        "STOA_REGION": "eu",
        "OTEL_EXPORTER_OTLP_ENDPOINT": "c",
    }
    with pytest.raises(ConfigError, match="OTEL_EXPORTER_OTLP_ENDPOINT"):
        Config.from_env(environ)
