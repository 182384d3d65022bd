"""Whatever goes wrong below /api and /agent is told as a problem; people get a page."""

from typing import Any

import pytest
from django.db import OperationalError
from django.test import Client

from controlplane.tenancy import access
from tests.api.house import House, with_key


def problem(answer: Any, status: int, code: str) -> dict[str, Any]:
    assert answer.status_code == status, answer.content
    assert answer["content-type"] == "application/problem+json"
    found: dict[str, Any] = answer.json()
    assert (found["status"], found["code"]) == (status, code)
    assert found["detail"] and found["title"] != "Error"
    return found


@pytest.fixture
def client(alice: House) -> Client:
    client = with_key(alice.secret)
    client.raise_request_exception = False
    return client


@pytest.mark.parametrize("path", ["/api/v1/nothing", "/api/v1/endpoints/", "/agent/v1/nothing"])
def test_a_path_that_leads_nowhere(client: Client, path: str) -> None:
    problem(client.get(path), 404, "not_found")


def test_a_host_that_is_not_ours_learns_none_of_ours(client: Client) -> None:
    found = problem(
        client.get("/api/v1/endpoints", headers={"host": "evil.example"}), 400, "bad_request"
    )
    assert "evil" not in found["detail"] and "ALLOWED_HOSTS" not in found["detail"]


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (OperationalError("sealed words"), 503, "unavailable"),
        (RuntimeError("sealed words"), 500, "internal_error"),
    ],
)
def test_a_failure_of_ours_keeps_its_words_to_the_log(
    client: Client, monkeypatch: pytest.MonkeyPatch, error: Exception, status: int, code: str
) -> None:
    def broken(*_: object) -> None:
        raise error

    monkeypatch.setattr(access, "projects", broken)
    found = problem(client.get("/api/v1/projects"), status, code)
    assert "sealed" not in found["detail"]
    assert found["request_id"].startswith("req_")


@pytest.mark.parametrize(
    "query",
    [
        "endpoints?name=%00",
        "endpoints?project=a%00b",
        "endpoints?after=%00",
        "endpoints?limit=" + "9" * 5000,
        "endpoints?limit=-1",
        "replicas?endpoint=%00",
        "usage?request=%00",
        "usage?from=0001-01-01T00:00:00%2B14:00",
        "costs?to=9999-12-31T23:59:59-14:00",
        "costs?from=yesterday",
        "api-keys?project=%00",
    ],
)
def test_a_query_that_no_database_could_answer(client: Client, query: str) -> None:
    found = problem(client.get(f"/api/v1/{query}"), 422, "invalid")
    assert found["errors"][0]["field"] == query.split("?")[1].split("=")[0]


def test_people_get_a_page(db: None) -> None:
    answer = Client().get("/nothing")
    assert (answer.status_code, answer["content-type"]) == (404, "text/html; charset=utf-8")
