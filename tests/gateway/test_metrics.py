"""The figures for Prometheus: what they count, that it can read them, and how many they can be."""

import ast
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

import gateway
from gateway import gauges
from gateway.metrics import GONE, Metrics
from tests.gateway.rig import KEY, Rig
from tests.gateway.wire import Connection
from workers.local.embedded import free_port

CHAT = "/v1/chat/completions"
Value = Callable[..., float]


def read(text: str) -> Value:
    """Prometheus' own parser's view of it. A sample that is not there counts as none."""
    families = list(text_string_to_metric_families(text))
    samples = [sample for family in families for sample in family.samples]
    assert len({(s.name, *sorted(s.labels.items())) for s in samples}) == len(samples)
    assert all(family.type != "unknown" for family in families)

    def value(name: str, **labels: str) -> float:
        return sum(
            sample.value
            for sample in samples
            if sample.name == name and labels.items() <= sample.labels.items()
        )

    return value


def figures(rig: Rig) -> Value:
    async def text() -> bytes:
        context = rig.server.context
        return context.metrics.text(gauges.of(context))

    return read(rig.run(text()).decode())


@pytest.mark.trap("open-dashboard")
def test_they_have_a_listener_of_their_own() -> None:
    with tempfile.TemporaryDirectory(prefix="gw-") as folder:
        rig = Rig(Path(folder), metrics_port=free_port())
        rig.key()
        rig.endpoint("tiny", [rig.engine("ep_tiny")])
        rig.chat("tiny")
        with Connection(rig.server.metrics_port) as connection:
            connection.get("/metrics", key=None)
            reply = connection.response()
        rig.stop()
    assert reply.headers["content-type"].startswith("text/plain")
    value = read(reply.body.decode())
    assert value("stoa_gateway_spool_healthy") == 1
    assert value("stoa_gateway_directory_keys") == 1
    assert value("stoa_gateway_directory_replicas") == 1
    assert value("stoa_gateway_requests_total") == 1
    assert value("process_resident_memory_bytes") > 1e6
    assert value("process_open_fds") > 3


def test_a_stream_is_in_every_histogram(rig: Rig) -> None:
    rig.endpoint("tiny", [rig.engine("ep_tiny")])
    rig.chat("tiny", stream=True, user="tokens=4;delay=0.03")
    rig.chat("tiny", user="tokens=5")
    value = figures(rig)
    ours = {"operation": "chat.completions", "endpoint": "ep_tiny"}
    assert value("stoa_gateway_requests_total", status="200", **ours) == 2
    assert value("stoa_gateway_tokens_total", kind="input", **ours) == 14
    assert value("stoa_gateway_tokens_total", kind="cached", **ours) == 6
    assert value("stoa_gateway_tokens_total", kind="output", **ours) == 9
    assert value("stoa_gateway_request_seconds_count") == 2
    standard = {
        "gen_ai_operation_name": "chat",
        "gen_ai_request_model": "org/model",
        "endpoint": "ep_tiny",
    }
    assert value("gen_ai_server_request_duration_seconds_count", **standard) == 2
    assert value("gen_ai_server_time_to_first_token_seconds_count", **standard) == 1
    assert value("gen_ai_server_time_to_first_token_seconds_sum", **standard) >= 0.02
    assert value("gen_ai_server_time_per_output_token_seconds_count", **standard) == 1
    each = value("gen_ai_server_time_per_output_token_seconds_sum", **standard)
    assert each >= 0.02
    assert value("stoa_gateway_in_flight") == 0


def test_buckets_are_cumulative_in_both_ways_of_showing_them(rig: Rig) -> None:
    rig.endpoint("tiny", [rig.engine("ep_tiny")])
    for _ in range(3):
        rig.chat("tiny")
    value = figures(rig)
    assert value("stoa_gateway_request_seconds_bucket", le="300") == 3
    assert value("stoa_gateway_request_seconds_bucket", le="+Inf") == 3
    assert value("stoa_gateway_request_seconds_bucket", le="0.02") == 0  # not one of ours
    assert value("gen_ai_server_request_duration_seconds_bucket", le="81.92") == 3


def test_refusals_are_counted_by_code(rig: Rig) -> None:
    rig.endpoint("tiny", [rig.engine("ep_tiny")])
    rig.chat("nothing-of-mine")
    rig.post(CHAT, b"{", key=KEY)
    rig.get("/v1/models", key=None)
    rig.chat("tiny", user="error=400")  # the engine's, about the context window
    rig.chat("tiny", user="error=418")  # … for which there is no code
    value = figures(rig)
    for code in ("model_not_found", "invalid_json", "invalid_api_key", "none"):
        assert value("stoa_gateway_refusals_total", code=code) == 1, code
    assert value("stoa_gateway_refusals_total", code="context_length_exceeded") == 1
    assert value("stoa_gateway_requests_total", endpoint="", status="404") == 1


@pytest.mark.parametrize(
    ("how", "reason"), [("error=500", "status"), ("tokens=9;die=2", "lost"), ("die=0", "lost")]
)
def test_an_engines_faults_are_counted(rig: Rig, how: str, reason: str) -> None:
    rig.endpoint("tiny", [rig.engine("ep_tiny")])
    rig.chat("tiny", stream=True, user=how)
    assert figures(rig)("stoa_gateway_upstream_errors_total", reason=reason) == 1


def test_an_engine_that_is_not_there(rig: Rig) -> None:
    engine, other = rig.engine("ep_tiny"), rig.engine("ep_tiny")
    rig.endpoint("tiny", [engine, other])
    rig.run(engine.stop())
    assert rig.chat("tiny").status == 200
    value = figures(rig)
    assert value("stoa_gateway_upstream_errors_total", reason="unreachable") == 1
    assert value("stoa_gateway_retries_total") == 1


def test_labels_are_bounded_by_the_directory_and_nothing_is_lost(rig: Rig) -> None:
    engine = rig.engine("ep_tiny", adapters=["poet"])
    rig.endpoint("tiny", [engine], adapters=["poet"])
    rig.endpoint("gone-soon", [rig.engine("ep_gone-soon")])
    rig.chat("tiny:poet")
    for _ in range(3):
        rig.chat("gone-soon", user="tokens=2")
    del rig.endpoints["gone-soon"]
    rig.publish()
    rig.chat("gone-soon")  # a name that somebody made up

    counted = rig.server.context.metrics.endpoints
    rig.until(lambda: counted() == {"ep_tiny", GONE})
    value = figures(rig)
    assert value("stoa_gateway_requests_total", endpoint=GONE) == 3
    assert value("stoa_gateway_tokens_total", endpoint=GONE, kind="output") == 6
    assert value("stoa_gateway_request_seconds_count") == 4
    assert value("gen_ai_server_request_duration_seconds_count", endpoint=GONE) == 3
    assert value("stoa_gateway_requests_total") == 5


def test_a_models_name_may_hold_anything(rig: Rig) -> None:
    rig.endpoint("tiny", [rig.engine("ep_tiny")])
    rig.change("tiny", model='a "quoted\\ name')
    rig.chat("tiny")
    name = "gen_ai_server_request_duration_seconds_count"
    assert figures(rig)(name, gen_ai_request_model='a "quoted\\ name') == 1


def test_codes_are_a_closed_list() -> None:
    """They are a label: each stands in our code, and none comes from a client or an engine."""
    sources = Path(str(gateway.__file__)).parent.glob("*.py")
    nodes = [node for path in sources for node in ast.walk(ast.parse(path.read_text()))]
    place = {"ApiError": 1}
    for node in nodes:
        if isinstance(node, ast.FunctionDef) and node.name != "__init__":
            names = [argument.arg for argument in node.args.args]
            if "code" in names and "message" in names:
                place[node.name] = names.index("code")
    assert {"ApiError", "bad_request"} <= place.keys()
    codes = set()
    for node in nodes:
        if isinstance(node, ast.Call):
            name = getattr(node.func, "attr", getattr(node.func, "id", ""))
            if name in place and len(node.args) > place[name]:
                code = node.args[place[name]]
                passed_on = isinstance(code, ast.Name) and code.id == "code"
                assert passed_on or isinstance(code, ast.Constant), ast.unparse(node)
                codes.update([code.value] if isinstance(code, ast.Constant) else [])
    assert "model_not_found" in codes


def test_starts_are_counted_by_tier() -> None:
    metrics = Metrics()
    for seconds, missed in ((1.5, False), (20.0, True)):
        metrics.started("standby", seconds, missed)
    metrics.started("", 3.0, False)
    value = read(metrics.text({}).decode())
    assert value("stoa_gateway_start_seconds_count", tier="standby") == 2
    assert value("stoa_gateway_start_seconds_sum", tier="standby") == 21.5
    assert value("stoa_gateway_start_seconds_bucket", tier="standby", le="2.5") == 1
    assert value("stoa_gateway_starts_missed_total", tier="standby") == 1
    assert value("stoa_gateway_start_seconds_count", tier="unknown") == 1
