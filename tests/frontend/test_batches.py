"""Batches on their page: how far they are, why they wait, cancelled."""

import json
from io import StringIO

from django.core.management import call_command

from controlplane.batches import finishing
from controlplane.batches.models import Batch, Forecast, Line, Status
from tests.api.house import House, signed_in, with_key


def underway(house: House, *, done: int, failed: int, total: int) -> Batch:
    batch = Batch.objects.get(id=house.batch_id)
    Batch.objects.filter(id=batch.id).update(
        status=Status.IN_PROGRESS, total=total, waits_for="budget_exceeded"
    )
    states = ["done"] * done + ["failed"] * failed + ["pending"] * (total - done - failed)
    Line.objects.bulk_create(
        Line(batch=batch, number=n, offset=0, size=2, model="chat", state=state)
        for n, state in enumerate(states, 1)
    )
    return batch


def test_progress_is_seen_and_a_batch_is_cancelled(alice: House) -> None:
    batch = underway(alice, done=5, failed=1, total=8)
    client = signed_in(alice.owner)
    text = client.get("/batches").content.decode()
    assert batch.id in text
    assert 'aria-label="75 % of its requests are over"' in text
    assert "a budget is spent" in text
    assert 'hx-trigger="every 3s"' in text
    rows = client.get(
        "/batches", headers={"hx-request": "true", "hx-target": "rows"}
    ).content.decode()
    assert rows.lstrip().startswith('<div id="rows"')
    assert client.post(f"/batches/{batch.id}/cancel").headers["location"] == "/batches"
    batch.refresh_from_db()
    assert (batch.status, batch.ends_as) == (Status.CANCELLING, Status.CANCELLED)
    assert f"/batches/{batch.id}/cancel" not in client.get("/batches").content.decode()
    assert client.get(f"/batches/{batch.id}/cancel").status_code == 405


def test_what_it_takes_stands_side_by_side(alice: House) -> None:
    batch = underway(alice, done=5, failed=1, total=8)
    Batch.objects.filter(id=batch.id).update(in_progress_at=batch.created_at)
    span = {"p50": 725.0, "p95": 900.0}
    cost = {"currency": "EUR", "by": "device_seconds", "p50": "1.2000", "p95": "1.5000"}
    row = Forecast.objects.create(
        batch=batch, model="chat", requests=8, predicted={"runtime_s": span, "cost": cost}
    )
    client = signed_in(alice.owner)
    text = client.get("/batches").content.decode()
    assert "12 min 05 s, at most 15 min 00 s; €1.20, at most €1.50" in text
    assert '<td data-label="Took">\N{EN DASH}</td>' in text
    slower = {"p50": 1450.0, "p95": 1500.0}
    row.canary = {"runtime_s": slower, "slower": 2.0, "move": True, "cost": None}
    row.actual = {"runtime_s": 1400.0, "cost": {"currency": "EUR", "p50": "2.3100"}}
    row.save()
    text = client.get("/batches").content.decode()
    for said in ("24 min 10 s, at most 25 min 00 s", "2.00 times as long as predicted"):
        assert said in text
    assert "another device may be better" in text and "23 min 20 s; €2.31" in text
    row.predicted = {"missing": "there is no speed for <cpu>"}
    row.save()
    text = client.get("/batches").content.decode()
    assert "Not predicted: there is no speed for &lt;cpu&gt;." in text
    told = with_key(alice.secret).get(f"/api/v1/batches/{batch.id}").json()["forecast"]
    assert (told["runtime_s"], told["move"]) == (slower, True)
    assert told["models"][0]["predicted"] == row.predicted


def test_a_failed_batch_says_what_was_wrong(alice: House) -> None:
    batch = Batch.objects.get(id=alice.batch_id)
    finishing.advance(batch.created_at)
    text = signed_in(alice.owner).get("/batches").content.decode()
    assert "Line 1: Missing required parameter: custom_id." in text
    assert "hx-trigger" not in text  # nothing changes any more


def test_the_api_and_the_command_say_the_same(alice: House, mallory: House) -> None:
    batch = underway(alice, done=2, failed=0, total=4)
    client = with_key(alice.secret)
    expected = {"total": 4, "completed": 2, "failed": 0}
    (listed,) = client.get("/api/v1/batches").json()["data"]
    assert listed == client.get(f"/api/v1/batches/{batch.id}").json()
    assert (listed["request_counts"], listed["waits_for"]) == (expected, "budget_exceeded")
    out = StringIO()
    call_command("batches", "--json", stdout=out)
    told = {one["id"]: one for one in map(json.loads, out.getvalue().splitlines())}
    assert set(told) == {alice.batch_id, mallory.batch_id}
    assert told[batch.id]["request_counts"] == expected
    out = StringIO()
    call_command("batches", stdout=out)
    assert f"{batch.id}  {alice.project.id}  in_progress  2+0/4  waits: budget_exceeded" in (
        out.getvalue()
    )
    assert client.post(f"/api/v1/batches/{batch.id}/cancel").json()["status"] == "cancelling"
    assert client.post(f"/api/v1/batches/{batch.id}/cancel").status_code == 200  # again
    Line.objects.all().delete()
    finishing.advance(batch.created_at)
    assert client.post(f"/api/v1/batches/{batch.id}/cancel").status_code == 409
