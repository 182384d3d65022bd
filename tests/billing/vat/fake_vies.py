"""VIES's REST service over HTTP, with the memory and the moods of the real one.

It knows numbers (registered or struck off), gives a consultation number only for a valid number
and a known requester, counts what is in flight for each state, and reports trouble as VIES does:
mostly with status 200 and `errorWrappers`.
"""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

FIELDS = {
    *{"countryCode", "vatNumber", "requesterMemberStateCode", "requesterNumber"},
    *{"traderName", "traderStreet", "traderPostalCode", "traderCity", "traderCompanyType"},
}
STATES = {
    *{"AT", "BE", "BG", "CY", "CZ", "DE", "DK", "EE", "EL", "ES", "FI", "FR", "HR", "HU", "IE"},
    *{"IT", "LT", "LU", "LV", "MT", "NL", "PL", "PT", "RO", "SE", "SI", "SK", "XI"},
}
# States that compare names and do not disclose them.
COMPARING = {"ES"}


@dataclass
class Trader:
    name: str
    address: str
    valid: bool = True


@dataclass
class State:
    """`down` are states whose own service does not answer; `mood` is said instead of any answer.

    A mood is an error's code, or a raw (status, body).
    """

    traders: dict[str, Trader] = field(default_factory=dict)
    down: set[str] = field(default_factory=set)
    mood: str | tuple[int, bytes] | None = None
    asked: list[dict[str, Any]] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def answer(self, question: dict[str, Any]) -> tuple[int, bytes]:
        with self.lock:
            self.asked.append(question)
            count = len(self.asked)
        if isinstance(self.mood, tuple):
            return self.mood
        error = self.mood or self._error(question)
        if error == "VOW-ERR-11":
            return 400, _trouble(error)
        if error:
            return 200, _trouble(error)
        return 200, json.dumps(self._verdict(question, count)).encode()

    def _error(self, question: dict[str, Any]) -> str | None:
        if set(question) - FIELDS or not question.get("vatNumber"):
            return "INVALID_INPUT"
        if question.get("countryCode") not in STATES:
            return "INVALID_INPUT"
        asker = question.get("requesterMemberStateCode"), question.get("requesterNumber")
        if (asker[0] is None) != (asker[1] is None):
            return "VOW-ERR-11"
        if asker[0] is not None and not self._valid(f"{asker[0]}{asker[1]}"):
            return "INVALID_REQUESTER_INFO"
        return "MS_UNAVAILABLE" if question["countryCode"] in self.down else None

    def _valid(self, number: str) -> bool:
        return number in self.traders and self.traders[number].valid

    def _verdict(self, question: dict[str, Any], count: int) -> dict[str, Any]:
        country, digits = question["countryCode"], question["vatNumber"]
        trader = self.traders.get(f"{country}{digits}")
        valid = trader is not None and trader.valid
        shown = valid and country not in COMPARING and trader is not None
        named = question.get("traderName", "")
        match = "NOT_PROCESSED"
        if valid and country in COMPARING and named and trader is not None:
            match = "VALID" if named == trader.name else "INVALID"
        qualified = valid and "requesterNumber" in question
        return {
            "countryCode": country,
            "vatNumber": digits,
            "requestDate": "2026-11-26T12:00:00.134Z",
            "valid": valid,
            "requestIdentifier": f"WAPIAAAA{count:08d}" if qualified else "",
            "name": trader.name if shown and trader else "---",
            "address": trader.address if shown and trader else "---",
            "traderName": named or "---",
            "traderStreet": "---",
            "traderPostalCode": "---",
            "traderCity": "---",
            "traderCompanyType": "---",
            "traderNameMatch": match,
            "traderStreetMatch": "NOT_PROCESSED",
            "traderPostalCodeMatch": "NOT_PROCESSED",
            "traderCityMatch": "NOT_PROCESSED",
            "traderCompanyTypeMatch": "NOT_PROCESSED",
        }


def _trouble(code: str) -> bytes:
    return json.dumps({"actionSucceed": False, "errorWrappers": [{"error": code}]}).encode()


@contextmanager
def serving(state: State) -> Iterator[str]:
    """The base URL under which it serves, until the block ends."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            known = self.path == "/rest-api/check-vat-number"
            status, answer = state.answer(json.loads(body)) if known else (404, b"")
            self.send_response(status)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}/rest-api"
        finally:
            server.shutdown()
            thread.join()
