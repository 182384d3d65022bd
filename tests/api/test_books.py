"""The operator's books over HTTP: closed months, the journal, DATEV's numbers."""

import json
from datetime import UTC, datetime
from typing import Any

from django.test import Client

from billing.books import chart, closing, ledger
from billing.models import BooksClosing, Reconciliation
from compliance.models import AuditEvent
from tests.api.house import House, post, signed_in, user
from tests.billing.test_closing import ADA, MARCH, NOW

IN_MARCH = datetime(2026, 3, 15, tzinfo=UTC)


def close() -> None:
    ledger.post(
        idempotency_key="k", kind="t", effective_at=IN_MARCH,
        entries=chart.cents([("bank:ent_1", 5), ("unmatched:ent_1", -5)]),
    )  # fmt: skip
    Reconciliation.objects.create(at=NOW, findings=[], checked={})
    closing.close(MARCH, actor=ADA, now=NOW)


def put(client: Client, path: str, body: dict[str, Any]) -> Any:
    return client.put(f"/api/v1{path}", json.dumps(body), "application/json")


def test_two_operators_open_closed_books_again(alice: House, operator: Client) -> None:
    close()
    path, other = "/books/2026-03", signed_in(user("other@example.eu", operator=True))
    for stranger in (signed_in(alice.owner), signed_in(alice.billing)):
        assert stranger.get("/api/v1/books").status_code in (403, 404)
        answer = post(stranger, f"{path}/ask-reopen", {"reason": "x"})
        assert answer.status_code in (403, 404)
        assert stranger.get(f"/api/v1{path}/journal").status_code in (403, 404)
    assert post(operator, f"{path}/ask-reopen", {}).status_code == 422
    early = post(operator, f"{path}/reopen", {})
    assert (early.status_code, early.json()["code"]) == (409, "not_asked")
    asked = post(operator, f"{path}/ask-reopen", {"reason": "a late bill"}).json()
    assert (asked["month"], asked["reason"], asked["reopened_at"]) == (
        "2026-03",
        "a late bill",
        None,
    )
    alone = post(operator, f"{path}/reopen", {})
    assert (alone.status_code, alone.json()["code"]) == (409, "second_person")
    opened = post(other, f"{path}/reopen", {}).json()
    assert opened["reopened_by"] != opened["asked_by"] and opened["reopened_at"]
    assert post(operator, "/books/2026-13/reopen", {}).status_code == 404
    (listed,) = operator.get("/api/v1/books").json()["data"]
    assert listed["id"] == opened["id"] == BooksClosing.objects.get().id
    actions = AuditEvent.objects.filter(target_id=opened["id"]).values_list("action", flat=True)
    assert {"books.ask_reopen", "books.reopen"} <= set(actions)


def test_the_journal_and_the_numbers_of_datev(alice: House, operator: Client) -> None:
    close()
    answer = operator.get("/api/v1/books/2026-03/journal")
    lines = b"".join(answer.streaming_content).splitlines()  # type: ignore[attr-defined]
    assert [json.loads(line)["key"] for line in lines] == ["k"]
    numbers = operator.get("/api/v1/datev-accounts").json()
    assert numbers["accounts"]["bank"] == "1200"
    wanted = {**numbers, "accounts": {"bank": "1810"}}
    assert put(operator, "/datev-accounts", {**wanted, "client": 0}).status_code == 409
    assert put(signed_in(alice.owner), "/datev-accounts", wanted).status_code in (403, 404)
    assert put(operator, "/datev-accounts", wanted).json()["accounts"]["bank"] == "1810"
    content = operator.get("/api/v1/books/2026-03/datev").content
    assert b'"EXTF";700;21;"Buchungsstapel";13;' in content
    assert b'0,05;"S";"EUR";;;"";1810;1590;' in content
