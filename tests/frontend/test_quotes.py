"""The page that asks for a quote, the one that shows it, and the endpoint that is made with it."""

import re
from typing import Any

import pytest
from django.test import Client

from controlplane import pace
from controlplane.endpoints import quote_keeping
from controlplane.endpoints.models import Endpoint, Quote
from controlplane.fleet.models import Pool
from controlplane.pace import RESERVED_S, Pace
from tests.api.house import House, signed_in
from tests.api.test_quotes import H100, L40S, MODEL, shared
from tests.frontend.test_fit import text

__all__ = ["shared"]  # a fixture

ASKED = {
    "model": MODEL,
    "demand": "load",
    "requests_per_second": "2",
    "prompt_tokens": "1000",
    "output_tokens": "200",
    "ttft_p95_s": "2",
    "tpot_p95_s": "0.1",
}


def ask(client: Client, house: House, **changes: Any) -> Any:
    return client.post("/quotes", {"project": house.project.id, **ASKED, **changes})


def test_the_best_is_shown_first_with_all_that_is_known(alice: House, shared: Pool) -> None:
    client = signed_in(alice.owner)
    answer = ask(client, alice, quantizations=["fp8"], cached_percent="30")
    quote = Quote.objects.get()
    assert answer.headers["location"] == f"/quotes/{quote.id}"
    assert quote.body["load"]["cached_share"] == 0.3
    assert (quote.body["slo"], quote.body["quantizations"]) == (
        {"ttft_p95_s": 2, "tpot_p95_s": 0.1},
        ["fp8"],
    )
    best = quote.answer["candidates"][0]
    shown = text(client.get(f"/quotes/{quote.id}"))
    for part in (
        f"{best['devices']} x {best['device_kind']} best Create endpoint with this",
        "2 requests a second, of 1,000 tokens with 200 in answer",
        f"First token {1000 * best['ttft_s']['p50']:.0f} ms",
        f"An hour €{float(best['price']['hour']):.2f}",
        "A million tokens €",
        "s standby,",
        quote.answer["rejected"][0]["reason"],
    ):
        assert part in shown, part
    listed = text(client.get("/quotes"))
    assert f"{best['devices']} x {best['device_kind']}, €" in listed
    again = client.get(f"/quotes?again={quote.id}").content.decode()
    assert f'name="model" value="{MODEL}"' in again
    assert 'name="cached_percent" value="30.0"' in again
    assert re.search(r'value="fp8"[^>]* checked', again)


def test_a_job_has_its_time_and_its_price(alice: House, shared: Pool) -> None:
    client = signed_in(alice.owner)
    job = {"demand": "job", "requests": "2000", "deadline_s": "7200"}
    shown = text(client.get(ask(client, alice, **job)["location"]))
    assert "A job of 2,000 requests, done within 2 h 00 min" in shown
    assert re.search(r"The job €\d+\.\d\d", shown)
    assert re.search(r"Takes \d+ min \d\d s", shown)


@pytest.mark.parametrize(
    ("changed", "field", "words"),
    [
        ({"model": ""}, "model", "required"),
        ({"model": "org/unseen"}, "model", "no node has brought it yet"),
        ({"requests_per_second": ""}, "requests_per_second", "required"),
        ({"demand": "job"}, "requests", "required"),
        ({"prompt_tokens": "200000"}, "model", "131,072 tokens"),
        ({"output_tokens": "x"}, "output_tokens", "Enter a number"),
        ({"requests_per_second": "1e9"}, "requests_per_second", "at most"),
        ({"ttft_p95_s": "0"}, "ttft_p95_s", "more than 0"),
        ({"cached_percent": "100"}, "cached_percent", "less than or equal to 99"),
        ({"quantizations": ["int3"]}, "quantizations", "not one of the available"),
    ],
)
def test_what_is_wrong_stands_beside_its_field(
    alice: House, shared: Pool, changed: dict[str, Any], field: str, words: str
) -> None:
    answer = ask(signed_in(alice.owner), alice, **changed)
    shown = answer.content.decode()
    assert answer.status_code == 422
    at = shown.index(f'id="id_{field}_error"')
    assert words in shown[at : at + 400]
    assert not Quote.objects.exists()


def test_it_is_asked_as_often_as_a_processor_may_be_kept_busy(
    alice: House, shared: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = signed_in(alice.owner)
    monkeypatch.setattr(quote_keeping, "MOST", 0)
    assert "at most 0 quotes a minute" in text(ask(client, alice))
    monkeypatch.setattr(quote_keeping, "MOST", 30)
    monkeypatch.setattr(pace, "QUOTES", Pace(share=0.1, most_s=RESERVED_S / 2))
    answer = ask(client, alice)
    assert answer.status_code == 422
    assert "Asked too often" in text(answer)


def test_an_endpoint_is_made_with_what_was_quoted(alice: House, shared: Pool) -> None:
    client = signed_in(alice.owner)
    ask(client, alice, quantizations=["fp8"])
    quote = Quote.objects.get()
    best = quote.answer["candidates"][0]
    page = client.get(f"/endpoints/new?quote={quote.id}&way=0").content.decode()
    assert f'name="quote_id" value="{quote.id}"' in page
    assert f'<option value="{best["device_kind"]}" selected>' in page
    wish = best["endpoint"]
    for name, value in (
        ("model", MODEL),
        ("device_count", wish["device_count"]),
        ("max_replicas", wish["max_replicas"]),
        ("max_model_len", wish["engine_args"]["max_model_len"]),
        ("max_num_seqs", wish["engine_args"]["max_num_seqs"]),
    ):
        assert f'name="{name}" value="{value}"' in page, name
    sent = {
        **{"project": alice.project.id, "name": "quoted", "quote_id": quote.id, "model": MODEL},
        **{"device_kind": wish["device_kind"], "device_count": wish["device_count"]},
        **{"min_replicas": 1, "max_replicas": wish["max_replicas"]},
        **{"scale_to_zero_timeout_s": 600, "max_num_seqs": wish["engine_args"]["max_num_seqs"]},
        **{"max_model_len": wish["engine_args"]["max_model_len"]},
    }
    made = client.post("/endpoints/new", sent)
    endpoint = Endpoint.objects.get(name="quoted")
    assert (made.status_code, endpoint.quote_id) == (302, quote.id)
    assert quote.id in client.get(f"/endpoints/{endpoint.id}").content.decode()
    for odd in ("9", "-1", "x", "", "9" * 30):  # the model at least
        answer = client.get(f"/endpoints/new?quote={quote.id}&way={odd}")
        assert f'name="model" value="{MODEL}"' in answer.content.decode(), odd


def test_a_quote_is_its_projects(alice: House, mallory: House, shared: Pool) -> None:
    ask(signed_in(alice.owner), alice)
    quote = Quote.objects.get()
    stranger = signed_in(mallory.owner)
    for path in (f"/endpoints/new?quote={quote.id}&way=0", f"/quotes?again={quote.id}"):
        assert stranger.get(path).status_code == 404, path
    assert MODEL not in text(stranger.get("/quotes"))
    wish = {"project": mallory.project.id, "name": "x", "model": MODEL, "device_kind": L40S}
    wish |= {"device_count": "1", "min_replicas": "0", "max_replicas": "1", "quote_id": quote.id}
    wish |= {"scale_to_zero_timeout_s": "600", "max_model_len": "4096"}
    refused = stranger.post("/endpoints/new", wish)
    assert (refused.status_code, Endpoint.objects.filter(name="x").exists()) == (422, False)
    for odd in ("../x", "quo_\x00", "quo_" + "0" * 26):
        assert stranger.post("/endpoints/new", {**wish, "quote_id": odd}).status_code == 422, odd
    assert (
        signed_in(alice.billing).post("/quotes", {"project": alice.project.id}).status_code == 403
    )
    assert "Create endpoint with this" not in text(
        signed_in(alice.billing).get(f"/quotes/{quote.id}")
    )


def test_the_panel_leads_to_a_quote_of_its_model(alice: House, shared: Pool) -> None:
    client = signed_in(alice.owner)
    draft = {"model": MODEL, "device_kind": H100, "device_count": "1"}
    draft |= {"project": alice.project.id, "min_replicas": "1", "max_replicas": "1"}
    shown = client.post("/endpoints/fit", draft).content.decode()
    found = re.search(r'href="(/quotes\?[^"]*)"', shown)
    assert found is not None
    page = client.get(found[1].replace("&amp;", "&")).content.decode()
    assert f'name="model" value="{MODEL}"' in page
