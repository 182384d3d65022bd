"""A client of VIES, the Commission's service that says whether a VAT number is valid.

One question, one answer, no retries: when to ask again is the caller's to say. Whatever goes
wrong is an answer too (`UNAVAILABLE` or `REJECTED`), and only a clear yes or no is a verdict.
VIES reports trouble with status 200 as well: `actionSucceed` false and `errorWrappers`.
"""

import json
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from typing import Any

import httpx

from billing.vat.numbers import VatNumber
from billing.vat.vies_answer import ViesAnswer, ViesOutcome

BASE_URL = "https://ec.europa.eu/taxation_customs/vies/rest-api"
# A member state may take a quarter of a minute to answer.
TIMEOUT_S = 30.0
_MOST_BYTES = 64 * 1024
# The question itself is refused; all other errors pass, or are not known and so may.
_VAIN = frozenset({"INVALID_INPUT", "INVALID_REQUESTER_INFO", "VAT_BLOCKED", "IP_BLOCKED"})
_NOT_DISCLOSED = "---"
_MATCHES = {
    "name": "traderNameMatch",
    "street": "traderStreetMatch",
    "postcode": "traderPostalCodeMatch",
    "city": "traderCityMatch",
    "company_type": "traderCompanyTypeMatch",
}


class ViesClient:
    """`http` is the caller's to configure and close; `clock` gives aware times."""

    def __init__(
        self, http: httpx.Client, clock: Callable[[], datetime], base_url: str = BASE_URL
    ) -> None:
        self._http = http
        self._clock = clock
        self._url = f"{base_url.rstrip('/')}/check-vat-number"

    def check(self, number: VatNumber, requester: VatNumber, name: str = "") -> ViesAnswer:
        """Ask about `number` in the name of `requester`, whose own number it must be.

        Where its state compares names, VIES says whether `name` is the registered one.
        """
        answer = ViesAnswer(ViesOutcome.UNAVAILABLE, str(number), str(requester), self._clock())
        question = {
            "countryCode": number.prefix,
            "vatNumber": number.digits,
            "requesterMemberStateCode": requester.prefix,
            "requesterNumber": requester.digits,
        }
        if name.strip():
            question["traderName"] = name.strip()
        try:
            status, raw = self._post(question)
        except httpx.HTTPError as error:
            return replace(answer, error=f"{type(error).__name__}: {error}".rstrip(": "))
        return _read(replace(answer, raw=raw), status, number)

    def _post(self, question: dict[str, str]) -> tuple[int, str]:
        body = bytearray()
        headers = {"accept": "application/json"}
        with self._http.stream(
            "POST", self._url, json=question, headers=headers, timeout=TIMEOUT_S
        ) as response:
            for piece in response.iter_bytes():
                body += piece
                if len(body) > _MOST_BYTES:
                    raise httpx.DecodingError(f"more than {_MOST_BYTES} bytes")
            return response.status_code, body.decode("utf-8", "replace")


def _read(answer: ViesAnswer, status: int, number: VatNumber) -> ViesAnswer:
    """What the body says; what cannot be understood is no verdict."""
    try:
        body = json.loads(answer.raw)
    except ValueError:
        body = None
    if not isinstance(body, dict):
        return replace(answer, error=f"status {status} without a JSON object")
    code = _error(body)
    if code:
        vain = code in _VAIN
        return replace(answer, error=code, outcome=ViesOutcome.REJECTED if vain else answer.outcome)
    if status != 200:
        return replace(answer, error=f"status {status}")
    return _verdict(answer, body, number)


def _error(body: dict[str, Any]) -> str:
    """VIES's code of trouble, in either of the two shapes that it has; "" for none."""
    wrappers = body.get("errorWrappers")
    if isinstance(wrappers, list) and wrappers and isinstance(wrappers[0], dict):
        return str(wrappers[0].get("error") or "UNNAMED")
    if body.get("actionSucceed") is False:
        return "UNNAMED"
    told = body.get("userError")
    return str(told) if told and told not in ("VALID", "INVALID") else ""


def _verdict(answer: ViesAnswer, body: dict[str, Any], number: VatNumber) -> ViesAnswer:
    valid = body.get("valid")
    if type(valid) is not bool:
        return replace(answer, error="no verdict in the answer")
    if (body.get("countryCode"), body.get("vatNumber")) != (number.prefix, number.digits):
        return replace(answer, error="an answer about another number")
    if not _is_time(body.get("requestDate")):
        return replace(answer, error="no time in the answer")
    return replace(
        answer,
        outcome=ViesOutcome.VALID if valid else ViesOutcome.INVALID,
        request_date=body["requestDate"],
        consultation_number=_text(body.get("requestIdentifier")),
        name=_text(body.get("name")),
        address=_text(body.get("address")),
        matches={key: body[field] for key, field in _MATCHES.items() if _text(body.get(field))},
    )


def _is_time(value: object) -> bool:
    try:
        return isinstance(value, str) and datetime.fromisoformat(value) is not None
    except ValueError:
        return False


def _text(value: object) -> str:
    """A field that the state discloses: three hyphens mean that it does not."""
    return value.strip() if isinstance(value, str) and value.strip() != _NOT_DISCLOSED else ""
