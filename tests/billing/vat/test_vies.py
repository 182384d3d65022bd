"""The client of VIES, against a server that has the shapes of the real one."""

import json
import socket
from collections.abc import Iterator
from datetime import date, timedelta

import httpx
import pytest

from billing.vat.decide import decide
from billing.vat.decision import Category, Outcome
from billing.vat.numbers import VatNumber
from billing.vat.parties import Evidence
from billing.vat.vies import ViesClient
from billing.vat.vies_answer import ViesOutcome
from tests.billing.vat import fake_vies
from tests.billing.vat.parties import GERMAN, NOW, business

US = VatNumber("DE", "136695976")
FRENCH = VatNumber("FR", "83404833048")
SPANISH = VatNumber("ES", "A15075062")


@pytest.fixture
def vies() -> fake_vies.State:
    return fake_vies.State(
        traders={
            str(US): fake_vies.Trader("Rechenwerk GmbH", "Hauptstr. 1\n10115 Berlin"),
            str(FRENCH): fake_vies.Trader("CALCUL SA", "1 RUE DU PORT\n75001 PARIS"),
            str(SPANISH): fake_vies.Trader("Industria S.A.", "hidden"),
        }
    )


@pytest.fixture
def client(vies: fake_vies.State) -> Iterator[ViesClient]:
    with fake_vies.serving(vies) as url, httpx.Client() as http:
        yield ViesClient(http, lambda: NOW, url)


def test_a_valid_number_comes_with_its_consultation_number(
    vies: fake_vies.State, client: ViesClient
) -> None:
    found = client.check(FRENCH, US)
    assert found.outcome is ViesOutcome.VALID
    assert (found.number, found.requester) == ("FR83404833048", "DE136695976")
    assert found.consultation_number == "WAPIAAAA00000001"
    assert (found.name, found.address) == ("CALCUL SA", "1 RUE DU PORT\n75001 PARIS")
    assert (found.checked_at, found.request_date) == (NOW, "2026-11-26T12:00:00.134Z")
    assert json.loads(found.raw)["requestIdentifier"] == found.consultation_number
    assert vies.asked == [
        {
            "countryCode": "FR",
            "vatNumber": "83404833048",
            "requesterMemberStateCode": "DE",
            "requesterNumber": "136695976",
        }
    ]


def test_a_number_that_is_struck_off_is_invalid(vies: fake_vies.State, client: ViesClient) -> None:
    vies.traders[str(FRENCH)].valid = False
    found = client.check(FRENCH, US)
    assert (found.outcome, found.consultation_number) == (ViesOutcome.INVALID, "")
    assert (found.name, found.address, found.error) == ("", "", "")


def test_a_state_that_hides_names_compares_them(client: ViesClient) -> None:
    right = client.check(SPANISH, US, "Industria S.A.")
    wrong = client.check(SPANISH, US, "Otra S.L.")
    assert (right.matches["name"], wrong.matches["name"]) == ("VALID", "INVALID")
    assert (right.name, right.outcome) == ("", ViesOutcome.VALID)
    assert "name" in client.check(SPANISH, US).matches


@pytest.mark.parametrize(
    "code",
    [
        *("MS_UNAVAILABLE", "SERVICE_UNAVAILABLE", "TIMEOUT", "SERVER_BUSY"),
        *("GLOBAL_MAX_CONCURRENT_REQ", "GLOBAL_MAX_CONCURRENT_REQ_TIME"),
        *("MS_MAX_CONCURRENT_REQ", "MS_MAX_CONCURRENT_REQ_TIME", "SOMETHING_NEW"),
    ],
)
def test_trouble_passes_and_is_no_verdict(
    vies: fake_vies.State, client: ViesClient, code: str
) -> None:
    vies.mood = code
    found = client.check(FRENCH, US)
    assert (found.outcome, found.error) == (ViesOutcome.UNAVAILABLE, code)


@pytest.mark.parametrize(
    "code", ["INVALID_INPUT", "INVALID_REQUESTER_INFO", "VAT_BLOCKED", "IP_BLOCKED"]
)
def test_a_refused_question_is_not_asked_again(
    vies: fake_vies.State, client: ViesClient, code: str
) -> None:
    vies.mood = code
    found = client.check(FRENCH, US)
    assert (found.outcome, found.error) == (ViesOutcome.REJECTED, code)


def test_a_requester_that_vies_does_not_know_is_refused(client: ViesClient) -> None:
    found = client.check(FRENCH, VatNumber("DE", "811115368"))
    assert (found.outcome, found.error) == (ViesOutcome.REJECTED, "INVALID_REQUESTER_INFO")


FINE = {
    "countryCode": "FR",
    "vatNumber": "83404833048",
    "requestDate": "2026-11-26T12:00:00.134Z",
    "valid": True,
    "requestIdentifier": "WAPIAAAAZ8Cq1x2b",
}


@pytest.mark.parametrize(
    ("status", "body", "error"),
    [
        (503, b"<html>maintenance</html>", "status 503"),
        (200, b"<html>maintenance</html>", "JSON"),
        (200, b"[]", "JSON"),
        (200, b"", "JSON"),
        (500, json.dumps(FINE).encode(), "status 500"),
        (200, json.dumps({**FINE, "valid": "true"}).encode(), "no verdict"),
        (200, json.dumps({**FINE, "valid": None}).encode(), "no verdict"),
        (200, json.dumps({**FINE, "vatNumber": "1"}).encode(), "another number"),
        (200, json.dumps({**FINE, "requestDate": "soon"}).encode(), "no time"),
        (200, json.dumps({**FINE, "requestDate": None}).encode(), "no time"),
        (200, json.dumps({**FINE, "valid": False, "userError": "MS_UNAVAILABLE"}).encode(),
         "MS_UNAVAILABLE"),
        (200, b'{"actionSucceed": false}', "UNNAMED"),
        (200, b'{"errorWrappers": [{}]}', "UNNAMED"),
        (200, b" " * 70_000, "bytes"),
    ],
)  # fmt: skip
def test_what_cannot_be_understood_is_no_verdict(
    vies: fake_vies.State, client: ViesClient, status: int, body: bytes, error: str
) -> None:
    vies.mood = (status, body)
    found = client.check(FRENCH, US)
    assert found.outcome is ViesOutcome.UNAVAILABLE
    assert error in found.error


def test_nobody_there_is_no_verdict() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound and not listening: connections are refused
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
        with httpx.Client() as http:
            found = ViesClient(http, lambda: NOW, url).check(FRENCH, US)
    assert found.outcome is ViesOutcome.UNAVAILABLE
    assert "ConnectError" in found.error


def test_an_outage_holds_the_invoice_until_vies_answers(
    vies: fake_vies.State, client: ViesClient
) -> None:
    customer = business("FR")
    vies.down.add("FR")
    held = decide(GERMAN, customer, Evidence(NOW, vies=client.check(FRENCH, US)), NOW.date())
    assert (held.outcome, held.reason) == (Outcome.PENDING, "vies_unavailable")
    assert "MS_UNAVAILABLE" in held.because
    vies.down.clear()
    found = decide(GERMAN, customer, Evidence(NOW, vies=client.check(FRENCH, US)), NOW.date())
    assert (found.outcome, found.category) == (Outcome.DECIDED, Category.REVERSE_CHARGE)
    assert b"WAPIAAAA00000002" in found.as_json()


def test_struck_off_between_draft_and_final(vies: fake_vies.State) -> None:
    now = NOW
    with fake_vies.serving(vies) as url, httpx.Client() as http:
        client = ViesClient(http, lambda: now, url)
        on = date(2026, 11, 30)
        first = Evidence(now, vies=client.check(FRENCH, US))
        draft = decide(GERMAN, business("FR"), first, on).drafted()
        assert draft is not None
        now += timedelta(days=5)
        vies.traders[str(FRENCH)].valid = False
        last = Evidence(now, vies=client.check(FRENCH, US), drafted=draft)
    final = decide(GERMAN, business("FR"), last, on)
    assert (final.outcome, final.reason) == (Outcome.PENDING, "vat_number_no_longer_valid")
