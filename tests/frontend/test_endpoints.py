"""Endpoints on their pages: as they are, created, stopped, started, deleted."""

from datetime import timedelta
from typing import Any

import pytest
from django.test import Client
from django.utils import timezone

from billing.pricing import prices
from compliance import audit
from controlplane.endpoints import lifecycle
from controlplane.endpoints.models import Endpoint, LogLine, Replica
from controlplane.endpoints.states import Reason, State
from controlplane.tenancy import services
from tests.api.house import House, signed_in
from tests.api.test_endpoints import gpu

WISH = {
    "name": "second",
    "model": "/models/other",
    "device_kind": "cpu",
    "device_count": "1",
    "min_replicas": "0",
    "max_replicas": "2",
    "scale_to_zero_timeout_s": "600",
}


def text(answer: Any) -> str:
    content: str = answer.content.decode()
    return content


def wish(client: Client, house: House, **changes: str) -> Any:
    return client.post("/endpoints/new", {"project": house.project.id, **WISH, **changes})


def move(replica: Replica, *states: State, **facts: Any) -> None:
    for state in states:
        reason = Reason.PROBE_PASSED if state is State.READY else Reason.NODE_REPORT
        lifecycle.advance(replica.id, state, reason=reason, now=timezone.now(), **facts)


def test_the_list_says_how_each_is_and_what_it_costs(alice: House) -> None:
    prices.publish_defaults(actor=audit.SYSTEM, now=timezone.now())
    client = signed_in(alice.owner)
    shown = text(client.get("/endpoints", headers={"hx-request": "true"}))
    assert "<html" not in shown
    assert "starting" in shown
    assert "€0.00" in shown
    assert "€0.12 a replica" in shown
    assert 'hx-trigger="every 1s"' in shown
    move(alice.replica, State.PROBING, State.READY)
    shown = text(client.get("/endpoints", headers={"hx-request": "true"}))
    assert "€0.12<br>" in shown
    assert 'hx-trigger="every 3s"' in shown


def test_no_price_is_not_a_price_of_nothing(alice: House) -> None:
    assert "no price" in text(signed_in(alice.owner).get("/endpoints"))


def test_the_list_asks_the_database_as_often_for_many(
    alice: House, django_assert_max_num_queries: Any
) -> None:
    client = signed_in(alice.owner)
    client.get("/endpoints")
    for number in range(8):
        wish(client, alice, name=f"more-{number}")
    with django_assert_max_num_queries(16):
        client.get("/endpoints")


def test_one_endpoint_shows_its_start_replicas_log_and_use(alice: House, settings: Any) -> None:
    settings.GATEWAY_URL = "https://llm.example/"
    move(alice.replica, State.PROBING)
    report = {"weights_bytes": 3 << 30, "kv_cache_bytes": 1 << 30, "max_concurrency": 12.5}
    move(alice.replica, State.READY, start_tier="standby", engine_report=report)
    LogLine.objects.create(replica=alice.replica, number=1, text="loading <weights>")
    shown = text(signed_in(alice.owner).get(f"/endpoints/{alice.endpoint.id}"))
    for part in (
        "1 ready",
        'class="p-probing"',
        "standby start",
        'id="start-times"',
        '<td data-label="Tier">standby</td>',
        "3.0 GiB",
        "12.5 full contexts",
        "probe_passed",
        "loading &lt;weights&gt;",
        "https://llm.example/v1/chat/completions",
        'base_url="https://llm.example/v1"',
        'model="chat"',
    ):
        assert part in shown, part


def test_a_failure_shows_its_last_lines_and_what_to_do(alice: House) -> None:
    lifecycle.advance(
        alice.replica.id,
        State.FAILED,
        reason=Reason.ENGINE_EXITED,
        detail="it ended with 1",
        now=timezone.now(),
        log_tail="ValueError: no such layer",
    )
    shown = text(signed_in(alice.owner).get(f"/endpoints/{alice.endpoint.id}/live"))
    for part in ("engine exited", "it ended with 1", "ValueError: no such layer", "Read the last"):
        assert part in shown, part
    assert ">Start</button>" in shown


def test_stop_and_start(alice: House) -> None:
    client, id = signed_in(alice.owner), alice.endpoint.id
    assert client.post(f"/endpoints/{id}/stop").headers["location"] == f"/endpoints/{id}"
    assert Endpoint.objects.get(id=id).stopped_at is not None
    assert ">Start</button>" in text(client.get(f"/endpoints/{id}"))
    client.post(f"/endpoints/{id}/start")
    assert Endpoint.objects.get(id=id).stopped_at is None


def test_deleting_asks_for_the_name(alice: House) -> None:
    client, id = signed_in(alice.owner), alice.endpoint.id
    wrong = client.post(f"/endpoints/{id}/delete", {"name": "chta"})
    assert wrong.status_code == 422
    assert 'value="chta"' in text(wrong)
    assert Endpoint.objects.get(id=id).deleted_at is None
    right = client.post(f"/endpoints/{id}/delete", {"name": "chat"})
    assert right.headers["location"] == "/endpoints"
    assert Endpoint.objects.get(id=id).deleted_at is not None
    assert client.get(f"/endpoints/{id}").status_code == 404


BOUNDS = {
    "min_replicas": "0",
    "max_replicas": "3",
    "scale_to_zero_timeout_s": "60",
    "queue_limit": "20",
    "queue_s": "0",
}


def test_bounds_are_changed_and_a_queue_is_the_gateways_again(alice: House) -> None:
    client, page = signed_in(alice.owner), f"/endpoints/{alice.endpoint.id}"
    assert text(client.get(page)).count("as the gateway is set") == 2
    assert client.post(f"{page}/scale", BOUNDS).headers["location"] == page
    endpoint = Endpoint.objects.get(id=alice.endpoint.id)
    assert (endpoint.min_replicas, endpoint.max_replicas, endpoint.scale_to_zero_timeout_s) == (
        0,
        3,
        60,
    )
    assert (endpoint.queue_limit, endpoint.queue_s) == (20, 0)
    assert "as the gateway is set" not in text(client.get(page))
    assert 'name="queue_limit" value="20"' in text(client.get(f"{page}/scale"))
    client.post(f"{page}/scale", {**BOUNDS, "queue_limit": "", "queue_s": ""})
    endpoint.refresh_from_db()
    assert (endpoint.max_replicas, endpoint.queue_limit, endpoint.queue_s) == (3, None, None)
    assert endpoint.ttft_target_s == 1.0
    more = {"ttft_target_s": "0.5"}
    more |= {"keep_alive": "automatic", "schedules": "0 8 * * mon-fri Europe/Berlin 36000 2"}
    more |= {"cap_seconds": "600", "cap_euro": "2.50", "cap_time_zone": "Europe/Berlin"}
    assert client.post(f"{page}/scale", {**BOUNDS, **more}).headers["location"] == page
    endpoint.refresh_from_db()
    assert (endpoint.keep_alive, endpoint.ttft_target_s) == ("automatic", 0.5)
    assert endpoint.schedules[0]["cron"] == "0 8 * * mon-fri"
    assert endpoint.keep_warm_cap == {
        "seconds": 600, "euro": "2.50", "time_zone": "Europe/Berlin"
    }  # fmt: skip
    form = text(client.get(f"{page}/scale"))
    assert "0 8 * * mon-fri Europe/Berlin 36000 2</textarea>" in form
    assert 'name="cap_euro" value="2.50"' in form
    assert 'name="ttft_target_s" value="0.5"' in form
    assert "0.5 s, or another replica" in text(client.get(page))
    assert "from <code>0 8 * * mon-fri</code> Europe/Berlin" in text(client.get(page))
    burst = {"workers": "20", "in_minutes": "3", "for_minutes": "60", "sequences": "1"}
    assert client.post(f"{page}/burst", burst).headers["location"] == f"{page}/scale"
    assert "20 workers from" in text(client.get(f"{page}/scale"))
    client.post(f"{page}/burst", {**burst, "workers": "0"})
    endpoint.refresh_from_db()
    assert [one["workers"] for one in endpoint.bursts] == [20]
    for field, value in (
        ("schedules", "often"),
        ("schedules", "0 8 * * * Nowhere/Land 60 1"),
        ("cap_time_zone", "x" * 65),
        ("cap_euro", "1.234"),
        ("min_replicas", "4"),
        ("max_replicas", "101"),
        ("scale_to_zero_timeout_s", "999999999"),
        ("ttft_target_s", "0.01"),
        ("queue_limit", "-1"),
        ("queue_s", "3601"),
    ):
        answer = client.post(f"{page}/scale", {**BOUNDS, field: value})
        assert answer.status_code == 422, field
        assert f'id="id_{field}_error"' in text(answer), field
    for path in ("scale", "burst", "share", "unshare"):
        assert signed_in(alice.billing).post(f"{page}/{path}", BOUNDS).status_code == 403
    assert "Change its bounds" not in text(signed_in(alice.billing).get(page))


def test_an_operator_shares_an_endpoint_and_it_says_so(alice: House) -> None:
    prices.publish_defaults(actor=audit.SYSTEM, now=timezone.now())
    client, page = signed_in(alice.owner), f"/endpoints/{alice.endpoint.id}"
    assert "For whom it is" not in text(client.get(page))
    assert client.post(f"{page}/share").status_code == 404  # an operator's page, to nobody else
    alice.owner.is_operator = True
    alice.owner.save()
    assert "Share with eu-de-1" in text(client.get(page))
    assert client.get(f"{page}/share").status_code == 405
    shown = text(client.post(f"{page}/share", follow=True))
    assert Endpoint.objects.get(id=alice.endpoint.id).shared
    for part in ("Stop sharing", "A million input tokens", "A million output tokens"):
        assert part in shown, part
    assert "no price" not in shown.partition("For whom it is")[2]
    looked = text(signed_in(alice.billing).get(page))
    assert "A million input tokens" in looked
    assert "Stop sharing" not in looked
    client.post(f"{page}/unshare")
    assert not Endpoint.objects.get(id=alice.endpoint.id).shared


def test_creating_with_all_the_trimmings(alice: House) -> None:
    client = signed_in(alice.owner)
    answer = wish(
        client,
        alice,
        max_model_len="2048",
        enable_prefix_caching="false",
        tool_call_parser="hermes",
        more="--block-size=32\nenforce_eager=true\n",
        adapters="my-tone=/models/tone\n",
        queue_limit="7",
        queue_s="30",
    )
    made = Endpoint.objects.get(name="second")
    assert answer.headers["location"] == f"/endpoints/{made.id}"
    assert made.engine_args == {
        "max_loras": 4,
        "max_model_len": 2048,
        "enable_prefix_caching": False,
        "tool_call_parser": "hermes",
        "enable_auto_tool_choice": True,
        "block_size": 32,
        "enforce_eager": True,
    }
    assert (made.queue_limit, made.queue_s) == (7, 30)
    assert [(one["name"], one["path"]) for one in made.adapters] == [("my-tone", "/models/tone")]
    assert (made.min_replicas, made.max_replicas, made.scale_to_zero_timeout_s) == (0, 2, 600)


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("name", "Not A Name", "inner dashes"),
        ("name", "chat", "an endpoint chat already"),
        ("name", "bell\x07", ""),
        ("model", "../etc/passwd", "expected a hub id"),
        ("device_count", "3", "the largest node has 2"),
        ("device_kind", "nvidia-h200", "Select a valid choice"),
        ("min_replicas", "5", "0 to max_replicas (2)"),
        ("max_model_len", "4", "expected 16 to"),
        ("more", "max_modle_len=4096", "the nearest is max_model_len"),
        ("more", "trust_remote_code=true", "it runs code from the model"),
        ("more", "block_size=8\nblock-size=16", "given twice"),
        ("more", "nonsense", "expected flag=value"),
        ("adapters", "only-a-name", "expected name=path"),
    ],
)
def test_a_refusal_stands_beside_its_field_and_nothing_is_lost(
    alice: House, field: str, value: str, words: str
) -> None:
    before = Endpoint.objects.count()
    answer = wish(signed_in(alice.owner), alice, **{"model": "/models/kept", field: value})
    assert answer.status_code == 422
    assert Endpoint.objects.count() == before
    shown = text(answer)
    at = shown.index(f'id="id_{field}_error"')
    assert words in shown[at : at + 600]
    assert 'aria-invalid="true"' in shown
    kept = {"name": "second", "model": "/models/kept", "scale_to_zero_timeout_s": "600"}
    for name, typed in (kept | {field: value}).items():
        if name not in ("device_kind", "more", "adapters"):
            assert f'name="{name}" value="{typed}"' in shown, name
    if field in ("more", "adapters"):
        assert value in shown


def test_what_cannot_fit_stands_beside_what_to_change(alice: House) -> None:
    gpu(alice)
    client = signed_in(alice.owner)
    on_gpu = {"model": "org/large", "device_kind": "nvidia-l4", "name": "large"}
    answer = wish(client, alice, **on_gpu)
    shown = text(answer)
    assert answer.status_code == 422
    at = shown.index('id="id_max_model_len_error"')
    assert "It does not fit on nvidia-l4" in shown[at : at + 600]
    assert "It fits with max_model_len = " in shown
    wish(client, alice, **on_gpu, max_model_len="4096")
    page = f"/endpoints/{Endpoint.objects.get(name='large').id}"
    assert "It fits on nvidia-l4 with 22.0 GiB: of 20.3 GiB for the engine" in text(
        client.get(page)
    )
    change = {"model": "org/large", "device_count": "1", "engine_args": "{}", "image": "null"}
    refused = client.post(f"{page}/versions", {**change, "strategy": "rolling"})
    assert refused.status_code == 422
    assert "It does not fit on nvidia-l4" in text(refused)
    unseen = wish(client, alice, **on_gpu | {"model": "org/unseen", "name": "unseen"})
    assert "no node has brought it yet" in text(client.get(unseen["location"]))


def test_a_form_stays_with_its_project_whatever_another_tab_chose(
    alice: House, mallory: House
) -> None:
    services.add_member(
        actor=audit.SYSTEM,
        organization=mallory.organization,
        user=alice.owner,
        role="developer",
        now=timezone.now() - timedelta(days=1),
    )
    client = signed_in(alice.owner)
    client.post("/switch", {"place": mallory.project.id})
    wish(client, alice)
    assert Endpoint.objects.get(name="second").project_id == alice.project.id
