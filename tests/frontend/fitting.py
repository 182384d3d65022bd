"""The panel beside the form, as somebody with a browser meets it."""

import json
from contextlib import suppress
from decimal import Decimal

from django.utils import timezone
from playwright.sync_api import Error, Route, expect

from billing.pricing import prices
from compliance import audit
from controlplane.endpoints.models import Endpoint, ModelFacts
from controlplane.fleet.models import Device, Node
from controlplane.placement import devices
from tests.api.house import House
from tests.benchmarks import predict as bench
from tests.benchmarks.memory import truth
from tests.frontend import browser
from tests.frontend.browser import Watched

KIND = "nvidia-l4"


def offer_a_gpu(house: House) -> None:
    """Beside what the house has, at a price; and everybody knows a model of 8B."""
    now = timezone.now()
    node = Node.objects.create(
        pool=house.pool,
        name="gpu",
        certificate_sha256="gpu".ljust(64, "0"),
        certificate_expires_at=now,
        created_at=now,
    )
    memory = devices.find("l4").memory_bytes
    for index in range(2):
        Device.objects.create(node=node, index=index, kind=KIND, name="L4", memory_bytes=memory)
    config = truth.configuration(bench.CONFIGS, "Llama-3.1-8B-Instruct")
    ModelFacts.objects.create(source="hub", model="org/large", config=config, seen_at=now)
    prices.publish(
        meter="device_seconds",
        device_kind=KIND,
        amount=Decimal("0.80"),
        valid_from=now,
        actor=audit.SYSTEM,
        now=now,
    )


def see_what_fits(house: House, watched: Watched) -> None:
    offer_a_gpu(house)
    type_a_wish(watched)
    take_advice_by_keyboard(watched)
    let_the_newest_answer_win(watched)
    do_without_scripts(house, watched)
    make_what_is_quoted(watched)
    change_it_by_advice(watched)


def type_a_wish(watched: Watched) -> None:
    page = watched.page
    watched.open("/endpoints/new")
    expect(page.locator("#fit")).to_contain_text("Name a model")
    watched.tab_to("#id_model")
    page.keyboard.type("org/large", delay=20)
    watched.tab_to("#id_device_kind")
    page.keyboard.type(KIND)
    expect(page.locator("#fit-title")).to_have_text("Does not fit")
    expect(page.locator(".fit-price")).to_have_text("€0.80/h")
    expect(page.locator("#said")).to_contain_text(f"Does not fit on 1 x {KIND}, €0.80 an hour")
    assert page.evaluate("document.activeElement.id") == "id_device_kind"
    asked = [url for url in watched.requested if url.endswith("/endpoints/fit")]
    assert 2 <= len(asked) < len("org/large")  # not one for each letter


def take_advice_by_keyboard(watched: Watched) -> None:
    page = watched.page
    watched.tab_to("#fill-max_model_len")
    page.keyboard.press("Enter")
    expect(page.locator("#id_max_model_len")).to_be_focused()
    assert int(page.locator("#id_max_model_len").input_value()) > 8192
    expect(page.locator("#fit-title")).to_have_text("Fits")
    expect(page.locator("#said")).to_contain_text("tokens at once")
    watched.tab_to("#id_max_model_len")
    page.keyboard.press("Control+A")
    page.keyboard.type("8192")
    expect(page.locator("#fit")).to_contain_text("of 8,192 tokens each")
    page.locator("#id_max_replicas").fill("3")
    expect(page.locator("#fit")).to_contain_text("€0.80 to €2.40 an hour")
    page.locator("#id_max_model_len").fill("")
    expect(page.locator("#fit-title")).to_have_text("Does not fit")
    page.get_by_role("button", name="2 devices").click()
    expect(page.locator("#id_device_count")).to_have_value("2")
    expect(page.locator("#fit")).to_contain_text("€1.60 to €4.80 an hour")


def let_the_newest_answer_win(watched: Watched) -> None:
    """An answer that comes late was asked for before the one that is shown."""
    page = watched.page
    late: list[Route] = []

    def first_waits(route: Route) -> None:
        if late:
            route.fallback()
        else:
            late.append(route)

    page.route("**/endpoints/fit", first_waits)
    with page.expect_request("**/endpoints/fit"):
        page.locator("#id_max_model_len").fill("4096")
    assert page.locator("main button.main").is_enabled()  # nobody waits for the panel
    page.locator("#id_max_model_len").fill("2048")
    expect(page.locator("#fit")).to_contain_text("of 2,048 tokens each")
    with suppress(Error):  # the browser may have dropped it
        late[0].fulfill(body="late", content_type="text/html")
    page.unroute("**/endpoints/fit")
    page.locator("#id_max_replicas").fill("4")
    expect(page.locator("#fit")).to_contain_text("€1.60 to €6.40 an hour")
    expect(page.locator("#fit")).to_contain_text("of 2,048 tokens each")
    expect(page.locator("#lost")).to_be_hidden()
    for _ in ("htmx:afterRequest", "htmx:sendAbort"):  # it notes the one that was replaced
        assert watched.complaints.pop().startswith(("htmx:afterRequest", "htmx:sendAbort"))
    for size in (browser.PHONE, browser.DESKTOP):
        page.set_viewport_size(size)
        expect(page.locator(".fit-head")).to_be_in_viewport()
        assert watched.overflow() <= 0


def do_without_scripts(house: House, watched: Watched) -> None:
    """The form is as it is, and what cannot fit is refused beside its field."""
    signed_in = watched.page.context.storage_state()
    opened = watched.page.context.browser
    assert opened is not None
    plain = opened.new_context(java_script_enabled=False, storage_state=signed_in)
    page = plain.new_page()
    page.goto(f"{watched.address}/endpoints/new")
    expect(page.locator("#fit")).to_be_hidden()
    page.locator("#id_name").fill("large")
    page.locator("#id_model").fill("org/large")
    page.locator("#id_device_kind").select_option(KIND)
    page.locator("main button.main").click()
    expect(page.locator("#id_max_model_len_error")).to_contain_text("It does not fit on nvidia-l4")
    assert not Endpoint.objects.filter(name="large", project=house.project).exists()
    plain.close()


def make_what_is_quoted(watched: Watched) -> None:
    """From the panel to a quote, and from its best way back to the form, filled in."""
    page = watched.page
    with page.context.expect_page() as opened:
        page.get_by_role("link", name="Ask for a quote").click()
    address = opened.value.url
    opened.value.close()
    page.goto(address)
    expect(page.get_by_label("Model", exact=True)).to_have_value("org/large")
    expect(page.get_by_label("Done within, in seconds")).to_be_hidden()
    page.get_by_label("a batch job").check()
    expect(page.get_by_label("Done within, in seconds")).to_be_visible()
    page.get_by_label("requests as they come").check()
    page.get_by_role("button", name="Quote").click()
    expect(page.locator(".way.best")).to_contain_text("An hour€1.60")
    for size in (browser.PHONE, browser.DESKTOP):
        page.set_viewport_size(size)
        assert watched.overflow() <= 0
    page.get_by_role("link", name="Create endpoint with this").first.click()
    expect(page.locator("#id_device_kind")).to_have_value(KIND)
    expect(page.locator("#fit-title")).to_have_text("Fits")


def change_it_by_advice(watched: Watched) -> None:
    """Where settings are one object, advice goes into it."""
    page = watched.page
    page.locator("#id_name").fill("quoted")
    page.locator("main button.main").click()
    expect(page.locator("h1")).to_have_text("quoted")
    page.get_by_role("link", name="Versions").click()
    expect(page.locator("#fit-title")).to_have_text("Fits")
    page.locator("#id_device_count").fill("1")
    page.locator("#id_engine_args").fill('{"max_num_seqs": 8}')
    expect(page.locator("#fit-title")).to_have_text("Does not fit")
    page.locator("#fill-max_model_len").click()
    expect(page.locator("#id_engine_args")).to_be_focused()
    expect(page.locator("#fit-title")).to_have_text("Fits")
    chosen = json.loads(page.locator("#id_engine_args").input_value())
    assert set(chosen) == {"max_num_seqs", "max_model_len"}
    for size in (browser.PHONE, browser.DESKTOP):
        page.set_viewport_size(size)
        assert watched.overflow() <= 0
