"""Limits on their page: of the project, of its organization, and what its runs may do."""

from typing import Any

import pytest

from compliance.models import AuditEvent
from controlplane.tenancy import run_policies
from controlplane.tenancy.models import Project
from frontend.policy_form import PolicyForm
from tests.api.house import House, signed_in

RATES = {"requests_per_minute": "60", "input_tokens_per_minute": "5000", "concurrency": "8"}


@pytest.mark.parametrize("form", ["project", "organization"])
def test_rates_are_set_seen_and_taken_away(alice: House, form: str) -> None:
    client = signed_in(alice.owner)
    place = {"project": alice.project.id, "form": form}
    shown = client.post("/limits", {**place, **RATES}, follow=True).content.decode()
    row: Any = alice.project if form == "project" else alice.organization
    row.refresh_from_db()
    assert (row.requests_per_minute, row.input_tokens_per_minute) == (60, 5000)
    assert (row.output_tokens_per_minute, row.concurrency) == (None, 8)
    assert f'value="60" min="1" max="2147483647" id="{form}_requests_per_minute"' in shown
    assert "holds within a second" in shown
    look = signed_in(alice.billing).get("/limits").content.decode()
    assert "<dd>60</dd>" in look
    assert "<dd>no limit</dd>" in look
    client.post("/limits", place)
    row.refresh_from_db()
    assert (row.requests_per_minute, row.concurrency) == (None, None)
    assert AuditEvent.objects.filter(action=f"{form}.update").count() == 2


def test_a_refused_rate_stands_beside_its_own_field(alice: House) -> None:
    client = signed_in(alice.owner)
    body = {"project": alice.project.id, "form": "organization", "concurrency": "0"}
    answer = client.post("/limits", body)
    assert answer.status_code == 422
    assert b'id="organization_concurrency_error"' in answer.content
    assert b'id="project_concurrency_error"' not in answer.content
    assert client.post("/limits", {**body, "form": "other"}).status_code == 404


POLICY = {
    "own": "own",
    "max_calls": "1000",
    "max_depth": "3",
    "slow_s": "0.5",
    "calls_per_minute_warn": "60",
    "calls_per_minute_stop": "600",
    "eur_per_minute_pause": "0.25",
}


def test_a_run_policy_is_set_seen_and_taken_away(alice: House) -> None:
    client = signed_in(alice.owner)
    place = {"project": alice.project.id, "form": "runs"}
    shown = client.post("/limits", {**place, **POLICY}, follow=True).content.decode()
    kept = {
        "max_calls": 1000,
        "max_depth": 3,
        "slow_s": 0.5,
        "calls_per_minute": {"warn": 60, "stop": 600},
        "eur_per_minute": {"pause": 0.25},
    }
    assert Project.objects.get(id=alice.project.id).run_policy == kept
    for field, value in (("max_depth", "3"), ("calls_per_minute_stop", "600")):
        assert f'name="{field}" value="{value}"' in shown, field
    look = signed_in(alice.billing).get("/limits").content.decode()
    assert "Calls a minute: stop" in look
    assert "<dd>600</dd>" in look
    client.post("/limits", {**place, **POLICY})  # the same again is no event
    client.post("/limits", {**place, "own": "default", "max_depth": "4"})
    assert Project.objects.get(id=alice.project.id).run_policy is None
    client.post("/limits", {**place, "own": "own"})
    assert Project.objects.get(id=alice.project.id).run_policy == {}
    assert AuditEvent.objects.filter(action="project.update").count() == 3


@pytest.mark.parametrize(
    ("wrong", "field"),
    [
        ({"own": "perhaps"}, "own"),
        ({"max_calls": "0"}, "max_calls"),
        ({"max_depth": "9"}, "max_depth"),
        ({"max_depth": "2.5"}, "max_depth"),
        ({"slow_s": "31"}, "slow_s"),
        ({"slow_s": "nan"}, "slow_s"),
        ({"calls_per_minute_warn": "601"}, "calls_per_minute_warn"),
        ({"depth_warn": "0"}, "depth_warn"),
        ({"repeats_stop": "1e10"}, "repeats_stop"),
    ],
)
def test_a_refused_policy_says_where(alice: House, wrong: dict[str, str], field: str) -> None:
    client = signed_in(alice.owner)
    body = {"project": alice.project.id, "form": "runs", **POLICY, **wrong}
    answer = client.post("/limits", body)
    assert answer.status_code == 422
    assert f'id="runs_{field}_error"' in answer.content.decode()
    assert Project.objects.get(id=alice.project.id).run_policy is None


def test_every_field_of_a_policy_comes_back_as_it_was_kept() -> None:
    steps = {step: number + 1 for number, step in enumerate(run_policies.STEPS)}
    policy = {
        **{name: int(most) for name, (_, most) in run_policies.LIMITS.items()},
        **dict.fromkeys(run_policies.MEASURES, steps),
    }
    form = PolicyForm(PolicyForm.filled(policy))
    assert form.is_valid(), form.errors
    assert form.policy() == run_policies.checked(policy) == policy
    assert all(field.label and field.label != name for name, field in form.fields.items())
