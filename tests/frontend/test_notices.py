"""What the operator tells an organization stands above each page until somebody closes it."""

from compliance import audit
from controlplane.tenancy import notices
from controlplane.tenancy.models import Notice
from tests.api.house import NOW, House, signed_in


def tell(house: House) -> Notice:
    return notices.tell(
        house.organization,
        subject="A node of yours is serviced <tonight>",
        text="Its replicas move before that.",
        about=audit.Target("node", "node_1"),
        key="maintenance",
        now=NOW,
    )


def test_it_is_shown_until_it_is_closed(alice: House, mallory: House) -> None:
    notice, client = tell(alice), signed_in(alice.owner)
    for path in ("/endpoints", "/costs"):
        text = client.get(path).content.decode()
        assert "A node of yours is serviced &lt;tonight&gt;" in text
    assert "serviced" not in signed_in(mallory.owner).get("/endpoints").content.decode()
    assert signed_in(mallory.owner).post(f"/notices/{notice.id}/close").status_code == 404
    assert signed_in(alice.billing).post(f"/notices/{notice.id}/close").status_code == 403
    answer = client.post(f"/notices/{notice.id}/close", {"back": "/costs"})
    assert (answer.status_code, answer.headers["location"]) == (302, "/costs")
    assert "serviced" not in client.get("/endpoints").content.decode()
    elsewhere = client.post(f"/notices/{notice.id}/close", {"back": "//example.eu/"})
    assert elsewhere.headers["location"] == "/endpoints"


def test_by_the_api(alice: House) -> None:
    notice, client = tell(alice), signed_in(alice.owner)
    (listed,) = client.get("/api/v1/notices?open=true").json()["data"]
    assert (listed["id"], listed["about"], listed["closed_at"]) == (notice.id, "node_1", None)
    closed = client.post(f"/api/v1/notices/{notice.id}/close", content_type="application/json")
    assert closed.json()["closed_at"] is not None
    assert client.get("/api/v1/notices?open=true").json()["data"] == []
    assert len(client.get("/api/v1/notices").json()["data"]) == 1
