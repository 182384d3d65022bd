"""The console's Residency page, and the receipts that it hands out."""

import json

import pytest
from django.utils import timezone

from compliance.models import AuditEvent
from tests.api import house
from tests.api.house import House, signed_in
from tests.signers import running
from workers import metering

pytestmark = pytest.mark.django_db


def test_the_page_shows_where_and_a_receipt_comes_as_a_file(alice: House, mallory: House) -> None:
    house.delivered(alice, request_id="req_1", input_tokens=5, cached_tokens=2, output_tokens=7)
    client = signed_in(alice.owner)
    asked = "/evidence/receipt?request=req_1"
    assert b"no receipt yet" in client.get(asked, follow=True).content
    metering.book_requests(timezone.now())
    page = client.get("/evidence/residency").content.decode()
    assert "nothing outside of eu-de-1" in page
    assert "Placements 1, outside 0, without a record 0; requests 1, outside 0." in page
    assert alice.node.id in page and "Nobody has stated where these are" in page
    empty = client.get("/evidence/residency?since=2001-01-01&until=2001-01-02").content.decode()
    assert "Nothing was processed in these days." in empty
    assert client.get("/evidence/residency?since=x&until=2001-13-01").status_code == 200
    assert b"signer does not answer" in client.get(asked, follow=True).content
    with running():
        answer = client.get(asked)
        assert "attachment" in answer.headers["content-disposition"]
        assert json.loads(json.loads(answer.content)["body"])["request"] == "req_1"
        theirs = signed_in(mallory.owner).get(asked, follow=True)
        assert b"There is no such request" in theirs.content
    assert AuditEvent.objects.filter(action="receipt.issue").count() == 1
    assert signed_in(alice.billing).get("/evidence/residency").status_code == 403
