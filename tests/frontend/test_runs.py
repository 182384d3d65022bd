"""Runs on their pages: found by their names, which no address and no page holds; and stopped."""

from datetime import timedelta
from typing import Any

from django.conf import settings
from django.utils import timezone

from billing import pseudonyms
from billing.models import BudgetWindow, RunStop
from compliance.models import AuditEvent
from tests.api.house import House, delivered, signed_in

WISH = {"amount": "100", "unit": "calls", "window": "total", "time_zone": "UTC", "hard": "yes"}


def run(house: House, path: str) -> str:
    return pseudonyms.run(pseudonyms.key(settings.KEY_PEPPER), house.project.id, path)


def agent(house: House, name: str) -> str:
    return pseudonyms.agent(pseudonyms.key(settings.KEY_PEPPER), house.project.id, name)


def used(house: House, path: str, by: str, nano_eur: int, **fields: Any) -> None:
    """One request of the run at `path` and of an agent, as a gateway delivers it."""
    names = path.split("/")
    refs = [run(house, "/".join(names[: depth + 1])) for depth in range(len(names))]
    delivered(
        house,
        input_tokens=1000,
        cached_tokens=400,
        output_tokens=70,
        nano_eur=nano_eur,
        run="/".join(refs),
        agent=agent(house, by),
        **fields,
    )


def find(house: House, name: str, what: str = "run") -> Any:
    body = {"project": house.project.id, "what": what, "name": name}
    return signed_in(house.owner).post("/runs", body)


def test_a_run_is_found_by_its_name_and_shows_what_it_used(alice: House) -> None:
    used(alice, "night", "planner", 10**9)
    used(alice, "night/one", "writer", 2 * 10**9)
    used(alice, "night/one", "writer", 3 * 10**9)
    used(alice, "day", "writer", 7 * 10**9)
    night, one = run(alice, "night"), run(alice, "night/one")
    answer = find(alice, "night")
    page = f"/projects/{alice.project.id}/runs/{night}"
    assert answer.headers["location"] == page  # a reference: the name is personal
    assert find(alice, night).headers["location"] == page
    client = signed_in(alice.owner)
    text = client.get(page).content.decode()
    for part in ("<dd>€6.00</dd>", "<dd>3</dd>", "3,000", "1,200 cached", one):
        assert part in text, part
    assert text.index("€5.00") < text.index("€1.00")  # the dearest agent first
    assert agent(alice, "writer") in text
    assert run(alice, "day") not in text
    below = client.get(f"/projects/{alice.project.id}/runs/{one}").content.decode()
    assert "<dd>€5.00</dd>" in below
    assert f'href="{page}"' in below  # the way up
    listed = client.get("/runs").content.decode()
    assert listed.index(run(alice, "day")) < listed.index(night)
    assert one not in listed  # runs below count with their root
    for shown in (text, below, listed):
        assert "planner" not in shown
        assert "night" not in shown


def test_an_agent_is_found_by_its_name(alice: House) -> None:
    used(alice, "night", "writer", 10**9)
    used(alice, "day", "writer", 2 * 10**9)
    used(alice, "day", "planner", 4 * 10**9)
    writer = agent(alice, "writer")
    page = f"/projects/{alice.project.id}/runs/{writer}"
    assert find(alice, "writer", "agent").headers["location"] == page
    assert find(alice, writer).headers["location"] == page
    client = signed_in(alice.owner)
    text = client.get(page).content.decode()
    assert "<dd>€3.00</dd>" in text
    assert run(alice, "day") in text
    assert "Stop run" not in text  # only runs are stopped
    assert client.post(f"{page}/stop").status_code == 404
    assert writer in client.get("/runs?by=agent").content.decode()


def test_a_run_is_stopped_and_goes_on(alice: House) -> None:
    client = signed_in(alice.owner)
    night = run(alice, "night")
    page = f"/projects/{alice.project.id}/runs/{night}"
    # Its first request is still under way: nothing is known of it, and it can be stopped.
    assert "Stop run" in client.get(page).content.decode()
    text = client.post(f"{page}/stop", follow=True).content.decode()
    assert '<span class="state bad">stopped</span>' in text
    assert "Let it go on" in text
    stop = RunStop.objects.get()
    assert (stop.project_id, stop.run, stop.stopped) == (alice.project.id, night, True)
    used(alice, "night/one", "writer", 10**9)
    below = client.get(f"/projects/{alice.project.id}/runs/{run(alice, 'night/one')}")
    assert "A run above it was stopped" in below.content.decode()
    text = client.post(f"{page}/resume", follow=True).content.decode()
    assert "not stopped" in text
    RunStop.objects.create(project_id=alice.project.id, run=night, stopped=True)
    RunStop.objects.update(at=timezone.now() - timedelta(days=1, seconds=1))
    assert "not stopped" in client.get(page).content.decode()  # gateways forget after a day
    told = AuditEvent.objects.filter(target_id=night).order_by("id")
    assert [one.action for one in told] == ["run.stop", "run.resume"]


def test_a_run_shows_its_own_budgets(alice: House) -> None:
    client = signed_in(alice.owner)
    client.post("/budgets", {**WISH, "project": alice.project.id, "whose": "run"})
    client.post(
        "/budgets", {**WISH, "project": alice.project.id, "whose": "agent", "agent": "writer"}
    )
    night, place = run(alice, "night"), f"/projects/{alice.project.id}/runs"
    budget = client.get("/budgets").context["rows"][-1].budget
    assert budget.subject == "run"
    for ref, spent in ((night, 85), (run(alice, "day"), 5)):
        BudgetWindow.objects.create(budget=budget, window=f"total/{ref}", spent=spent)
    text = client.get(f"{place}/{night}").content.decode()
    assert '<span class="state busy">85 %</span> 85 calls' in text
    assert "15 calls" in text
    fresh = client.get(f"{place}/{run(alice, 'fresh')}").content.decode()
    assert "100 calls" in fresh
    writer = client.get(f"{place}/{agent(alice, 'writer')}").content.decode()
    assert "Its budgets" in writer
    assert "Its budgets" not in client.get(f"{place}/{agent(alice, 'other')}").content.decode()


def test_what_is_no_name_says_so_at_the_field(alice: House) -> None:
    for name, what in (
        ("", "run"),
        ("a b", "run"),
        ("a//b", "run"),
        ("a/b", "agent"),
        ("x" * 129, "agent"),
    ):
        answer = find(alice, name, what)
        assert answer.status_code == 422, name
        assert b'id="id_name_error"' in answer.content, name
    client = signed_in(alice.owner)
    for ref in ("night", "run_1", f"{run(alice, 'night')}0"):
        assert client.get(f"/projects/{alice.project.id}/runs/{ref}").status_code == 404


def test_another_organizations_run_of_the_same_name_is_another_run(
    alice: House, mallory: House
) -> None:
    used(alice, "night", "writer", 10**9)
    assert run(alice, "night") != run(mallory, "night")
    client = signed_in(mallory.owner)
    mine = f"/projects/{mallory.project.id}/runs/{run(alice, 'night')}"
    text = client.get(mine).content.decode()
    assert "€1.00" not in text
    client.post(f"{mine}/stop")
    assert not RunStop.objects.filter(project_id=alice.project.id).exists()
