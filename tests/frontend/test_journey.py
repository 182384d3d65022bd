"""One person's way through the console, in a real browser, partly without a mouse."""

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from django.db import connections
from django.utils import timezone
from playwright.sync_api import Page, expect

from billing.models import Budget, RunStop
from billing.pricing import prices
from compliance import audit
from controlplane.endpoints import lifecycle, logs
from controlplane.endpoints.models import Endpoint, Replica, Transition
from controlplane.endpoints.states import Reason, State
from controlplane.fleet import wire
from controlplane.fleet.models import Pool
from controlplane.tenancy.models import ApiKey
from tests.api import house
from tests.api.house import House
from tests.frontend import browser, fitting
from tests.frontend.browser import Watched

pytestmark = [
    pytest.mark.browser,
    pytest.mark.django_db(transaction=True),
    pytest.mark.skipif(
        not Path(browser.CHROMIUM).exists(),
        reason="no Chromium here: `python tests/prepare.py` installs it",
    ),
]


@pytest.fixture
def watched(alice: House, monkeypatch: pytest.MonkeyPatch) -> Iterator[Watched]:
    # Playwright keeps an event loop in this thread, where Django would not touch a database.
    monkeypatch.setenv("DJANGO_ALLOW_ASYNC_UNSAFE", "true")
    prices.publish_defaults(actor=audit.SYSTEM, now=timezone.now())
    with browser.console() as address, browser.watched(address) as seen:
        yield seen
        connections.close_all()  # those of that event loop: Django keeps them apart


def go(page: Page, section: str, name: str) -> None:
    """By the console's sections, and the pages of one."""
    for where, link in (("Console", section), (section, name)):
        menu = page.get_by_role("navigation", name=where, exact=True)
        menu.get_by_role("link", name=link, exact=True).click()


def wished(endpoint: Endpoint) -> Replica:
    """What the reconciler does first."""
    now = timezone.now() - timedelta(seconds=2)
    replica = Replica.objects.create(
        endpoint=endpoint, generation=1, reason=Reason.SCALE_UP, state_at=now, created_at=now
    )
    Transition.objects.create(
        replica=replica, to_state=State.REQUESTED, reason=Reason.SCALE_UP, at=now
    )
    return replica


def move(replica: Replica, state: State, reason: Reason = Reason.NODE_REPORT, **facts: str) -> None:
    assert lifecycle.advance(
        replica.id,
        state,
        reason=reason,
        now=timezone.now(),
        detail="",
        expected=None,
        released=state is State.STOPPED,
        ready_s=0.0,
        meters=False,
        **facts,
    )


def test_from_signing_in_to_deleting(alice: House, watched: Watched) -> None:
    sign_in_by_keyboard(alice, watched)
    fitting.see_what_fits(alice, watched)
    endpoint = create_by_keyboard(alice, watched)
    replica = see_it_start(endpoint, alice, watched)
    read_its_log(replica, alice, watched)
    make_a_key(watched)
    limit_and_rotate_it(watched)
    set_limits_and_budgets(watched)
    give_it_another_name(watched)
    stop_a_run(alice, watched)
    fits_a_phone(endpoint, watched)
    stop_and_delete(endpoint, replica, watched)
    set_a_health_policy(alice, watched)
    assert watched.complaints == []
    assert watched.strangers == []
    assert any(url.endswith(f"/endpoints/{endpoint.id}/events") for url in watched.requested)


def sign_in_by_keyboard(alice: House, watched: Watched) -> None:
    page = watched.page
    watched.open("/")
    expect(page.locator("#id_username")).to_be_focused()
    page.keyboard.type(alice.owner.email)
    page.keyboard.press("Tab")
    page.keyboard.type(house.PASSWORD)
    page.keyboard.press("Enter")
    expect(page.locator("#place")).to_contain_text("alice / default")
    expect(page.locator("#rows")).to_contain_text("chat")
    page.keyboard.press("Tab")
    expect(page.locator(".skip")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.locator("#main")).to_be_focused()


def create_by_keyboard(alice: House, watched: Watched) -> Endpoint:
    page = watched.page
    watched.open("/endpoints")
    watched.tab_to('a[href="/endpoints/new"]')
    page.keyboard.press("Enter")
    page.wait_for_url("**/endpoints/new")
    watched.tab_to("#id_name")
    page.keyboard.type("fresh")
    watched.tab_to("#id_model")
    page.keyboard.type("/models/tiny")
    watched.tab_to("#id_more")
    page.keyboard.type("max_modl_len=2048")
    watched.tab_to("main button.main")
    page.keyboard.press("Enter")
    # Refused: beside the field, with everything as it was typed.
    expect(page.locator("#id_more_error")).to_contain_text("the nearest is max_model_len")
    watched.complaints.remove(watched.complaints[-1])  # the browser notes the 422
    expect(page.locator("#id_name")).to_have_value("fresh")
    watched.tab_to("#id_more")
    page.keyboard.press("Control+A")
    page.keyboard.type("max_model_len=2048")
    watched.tab_to("main button.main")
    page.keyboard.press("Enter")
    expect(page.locator("#status")).to_have_text("pending")
    return Endpoint.objects.get(name="fresh", project=alice.project)


def see_it_start(endpoint: Endpoint, alice: House, watched: Watched) -> Replica:
    """Each phase appears by itself, with its seconds, on a page that nobody reloads."""
    page = watched.page
    page.evaluate("window.notReloaded = true")
    legend = page.locator(".legend")
    replica = wished(endpoint)
    move(replica, State.PLACED, Reason.PLACED, node_id=alice.node.id)
    expect(legend).to_contain_text("placed")
    for state in (State.FETCHING, State.STARTING, State.PROBING):
        move(replica, state)
        expect(legend).to_contain_text(state.value)
    before = legend.inner_text()
    expect(legend).not_to_have_text(before)  # the running phase counts on
    move(replica, State.READY, Reason.PROBE_PASSED, start_tier="standby")
    expect(page.locator("#status")).to_have_text("ready")
    expect(page.locator("#phases-title + p")).to_contain_text("ready after")
    assert page.locator("svg.phases rect").count() == 5
    expect(page.locator("#said")).to_contain_text("fresh is ready: 1 ready")
    expect(page.locator(".tiles")).to_contain_text("€0.12")
    assert page.evaluate("window.notReloaded")
    return replica


def read_its_log(replica: Replica, alice: House, watched: Watched) -> None:
    """The log follows the new replica, and its lines come as they are written."""
    page = watched.page
    expect(page.locator("#log")).to_have_attribute("data-replica", replica.id)
    for number, line in ((1, "loading weights"), (2, "<b>listening</b>")):
        chunk = wire.LogChunk(replica_id=replica.id, first_number=number, lines=[line])
        logs.append(alice.node, chunk, timezone.now())
        expect(page.locator("#lines")).to_contain_text(line)
    assert page.locator("#lines").inner_text() == "loading weights\n<b>listening</b>\n"


def make_a_key(watched: Watched) -> None:
    page = watched.page
    page.get_by_role("link", name="Make an API key").click()
    page.get_by_label("Name", exact=True).fill("agent seven")
    page.get_by_role("button", name="Create key").click()
    secret = page.locator("#secret").inner_text()
    assert secret.startswith("sk-stoa-")
    expect(page.locator("#secret-title")).to_be_focused()
    page.locator('[data-copy="secret"]').click()
    expect(page.locator('[data-copy="secret"]')).to_have_text("Copied")
    assert page.evaluate("navigator.clipboard.readText()") == secret
    page.reload()  # a reload asks for the list, and makes no second key
    expect(page.locator("tbody")).to_contain_text("agent seven")
    assert secret not in page.content()
    assert page.get_by_text("agent seven").count() == 1


def limit_and_rotate_it(watched: Watched) -> None:
    page = watched.page
    page.get_by_role("link", name="agent seven", exact=True).click()
    page.get_by_label("Requests a minute").fill("60")
    page.get_by_label("Networks it may be used from").fill("192.0.2.1/24")
    page.get_by_role("button", name="Save limits").click()
    expect(page.locator("#id_networks_error")).to_contain_text("192.0.2.0/24")
    watched.complaints.remove(watched.complaints[-1])  # the browser notes the 422
    page.get_by_label("Networks it may be used from").fill("192.0.2.0/24")
    page.get_by_role("button", name="Save limits").click()
    expect(page.locator(".note.success")).to_contain_text("agent seven")
    expect(page.get_by_label("Requests a minute")).to_have_value("60")
    page.get_by_label("The secrets before it end").select_option("in 7 days")
    page.get_by_role("button", name="Rotate key").click()
    expect(page.locator("#secret-title")).to_be_focused()
    secret = page.locator("#secret").inner_text()
    expect(page.locator("tbody tr")).to_have_count(2)
    page.reload()  # a reload asks for the key, and rotates it no second time
    expect(page.locator("tbody tr")).to_have_count(2)
    assert secret not in page.content()


def set_limits_and_budgets(watched: Watched) -> None:
    page = watched.page
    go(page, "Access", "Limits")
    page.locator("#organization_concurrency").fill("32")
    page.get_by_role("button", name="Save the limits of the organization").click()
    expect(page.locator("#organization_concurrency")).to_have_value("32")
    page.get_by_label("Policy").select_option("the project's own, as below")
    page.get_by_role("group", name="Calls a minute").get_by_label("stop").fill("600")
    page.get_by_role("button", name="Save policy").click()
    expect(page.locator("#runs_calls_per_minute_stop")).to_have_value("600")
    go(page, "Money", "Budgets")
    page.get_by_label("Amount").fill("25")
    page.get_by_role("button", name="Set budget").click()
    expect(page.locator("tbody")).to_contain_text("€25.00")
    page.get_by_role("link", name="Change the budget").click()
    page.get_by_label("Amount").fill("30")
    page.get_by_role("button", name="Save budget").click()
    expect(page.locator("h1")).to_have_text("€30.00 each month")


def give_it_another_name(watched: Watched) -> None:
    page = watched.page
    go(page, "Serving", "Aliases")
    page.get_by_label("Name", exact=True).fill("claude-sonnet")
    page.get_by_label("Endpoints, in the order").fill("fresh, chat")
    page.get_by_role("button", name="Add alias").click()
    expect(page.locator("tbody")).to_contain_text("claude-sonnet")


def stop_a_run(alice: House, watched: Watched) -> None:
    """By its name, which stays out of every address."""
    page = watched.page
    go(page, "Serving", "Runs")
    page.get_by_role("textbox", name="Its name").fill("night-shift")
    page.keyboard.press("Enter")
    page.wait_for_url("**/runs/run_*")
    page.get_by_role("button", name="Stop run").click()
    expect(page.locator(".state.bad")).to_have_text("stopped")
    assert RunStop.objects.get().project_id == alice.project.id
    assert not any("night-shift" in url for url in watched.requested)


def fits_a_phone(endpoint: Endpoint, watched: Watched) -> None:
    page = watched.page
    page.set_viewport_size(browser.PHONE)
    mine = f"/endpoints/{endpoint.id}"
    run = f"/projects/{RunStop.objects.get().project_id}/runs/{RunStop.objects.get().run}"
    paths = ["/endpoints", mine, "/endpoints/new", f"{mine}/delete", "/costs", "/evidence"]
    paths += ["/keys", f"/keys/{ApiKey.objects.get(name='agent seven').id}", "/aliases", "/limits"]
    paths += [
        "/uploads",
        "/pulls",
        "/quotes",
        "/budgets",
        f"/budgets/{Budget.objects.get().id}",
        "/runs",
        run,
    ]
    for path in paths:
        watched.open(path)
        assert watched.overflow() <= 0, path
    page.set_viewport_size(browser.DESKTOP)


def stop_and_delete(endpoint: Endpoint, replica: Replica, watched: Watched) -> None:
    page = watched.page
    watched.open(f"/endpoints/{endpoint.id}")
    page.get_by_role("button", name="Stop").click()
    expect(page.locator("#status")).to_have_text("stopping")
    move(replica, State.DRAINING, Reason.STOP_REQUESTED)
    move(replica, State.STOPPED, Reason.STOPPED)
    expect(page.locator("#status")).to_have_text("stopped")
    expect(page.get_by_role("button", name="Start")).to_be_visible()
    page.get_by_role("link", name="Delete").click()
    expect(page.locator("#id_name")).to_be_focused()
    page.keyboard.type("fresh")
    page.keyboard.press("Enter")
    expect(page.locator(".note.success")).to_contain_text("fresh is deleted")
    expect(page.locator("#rows")).not_to_contain_text("fresh")
    assert Endpoint.objects.get(id=endpoint.id).deleted_at is not None


def set_a_health_policy(alice: House, watched: Watched) -> None:
    """Somebody else's work: the operator signs in."""
    page = watched.page
    page.get_by_role("button", name="Sign out").click()
    operator = house.user("operator@stoa.example", operator=True)
    page.locator("#id_username").fill(operator.email)
    page.locator("#id_password").fill(house.PASSWORD)
    page.keyboard.press("Enter")
    go(page, "Fleet", "Nodes")
    page.get_by_role("link", name=f"/ {alice.pool.name}").click()
    row = page.locator("#rule-gpu_nvlink")
    row.get_by_label("What is done").select_option("drain")
    row.get_by_label("Held for (s)").fill("-5")
    page.keyboard.press("Enter")  # saves, and takes nothing back
    expect(row.locator(".errorlist")).to_contain_text("greater than or equal to 0")
    watched.complaints.remove(watched.complaints[-1])  # the browser notes the 422
    expect(row.get_by_label("What is done")).to_have_value("drain")
    row.get_by_label("Held for (s)").fill("300")
    page.get_by_role("button", name="Save the policy").click()
    expect(page.locator(".note.success")).to_contain_text("The policy is saved")
    expect(row).to_contain_text("by default cordon")
    page.set_viewport_size(browser.PHONE)
    assert watched.overflow() <= 0
    page.set_viewport_size(browser.DESKTOP)
    row.get_by_role("button", name="back to default").click()
    expect(page.locator(".note.success")).to_contain_text("gpu nvlink is as by default")
    expect(row.get_by_label("What is done")).to_have_value("cordon")
    assert Pool.objects.get(pk=alice.pool.id).health_policy == {}
