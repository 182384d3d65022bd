"""The form of a pool's health policy: what is changed of the default, and its way back."""

from typing import Any

import pytest
from django.test import Client

from compliance.models import AuditEvent
from controlplane.fleet import health
from controlplane.fleet.health_policy import DEFAULT, Action
from controlplane.fleet.models import Node, Pool
from frontend.health_form import HealthForm
from tests.api.house import House, signed_in
from tests.frontend.reading import read

Body = dict[str, Any]


def page(alice: House) -> str:
    return f"/pools/{alice.pool.id}/health"


def body(alice: House, **said: Any) -> Body:
    """The form as it is shown, with what somebody then types."""
    pool = kept(alice)
    form = HealthForm(health.policy_of(pool), pool.health_policy)
    return {**form.initial, **{name.replace("__", "-"): value for name, value in said.items()}}


def kept(alice: House) -> Pool:
    return Pool.objects.get(pk=alice.pool.id)


def events() -> int:
    return AuditEvent.objects.filter(action="pool.update").count()


def test_every_check_is_there_with_its_default(alice: House, operator: Client) -> None:
    text = operator.get(page(alice)).content.decode()
    for check in DEFAULT:
        assert f'id="rule-{check}"' in text, check
    assert "Back to default" not in text and ">changed<" not in text
    assert page(alice) in operator.get("/nodes").content.decode()
    assert page(alice) in operator.get(f"/nodes/{alice.node.id}").content.decode()


def test_saving_what_was_shown_changes_nothing(alice: House, operator: Client) -> None:
    assert operator.post(page(alice), body(alice)).status_code == 302
    assert kept(alice).health_policy == {} and events() == 0


def test_what_differs_is_kept_shown_and_taken_back_rule_by_rule(
    alice: House, operator: Client
) -> None:
    said = body(alice, gpu_nvlink__action="drain", gpu_nvlink__hold_s="300", max_share="33.5")
    text = operator.post(page(alice), {**said, "disk_free-recurs": "5"}, follow=True)
    assert kept(alice).health_policy == {
        "max_share": 0.335,
        "rules": {"gpu_nvlink": {"action": "drain", "hold_s": 300.0}, "disk_free": {"recurs": 5}},
    }
    policy = health.policy_of(kept(alice))
    assert policy.rule("gpu_nvlink").action is Action.DRAIN and policy.rule("disk_free").recurs == 5
    shown = text.content.decode()
    assert "by default cordon" in shown and "by default 60" in shown and "by default 20" in shown
    assert 'value="33.5"' in shown and shown.count(">changed<") == 3 and events() == 1

    # Whatever its fields say; the rest of what was typed is saved with it.
    back = {**body(alice), "gpu_nvlink-hold_s": "many", "clock_offset-hold_s": "9"}
    operator.post(page(alice), {**back, "back": "gpu_nvlink"})
    rules = kept(alice).health_policy["rules"]
    assert rules == {"disk_free": {"recurs": 5}, "clock_offset": {"hold_s": 9.0}}
    operator.post(page(alice), {**body(alice), "back": "max_share"})
    assert "max_share" not in kept(alice).health_policy and events() == 3


@pytest.mark.parametrize(
    ("field", "typed", "says"),
    [
        ("gpu_ecc-hold_s", "-1", "greater than or equal to 0"),
        ("gpu_ecc-hold_s", "3000000", "less than or equal to 2592000"),
        ("gpu_ecc-hold_s", "nan", "Enter a number"),
        ("gpu_ecc-recurs", "0", "greater than or equal to 1"),
        ("gpu_ecc-recurs", "", "This field is required"),
        ("gpu_ecc-action", "explode", "not one of the available choices"),
        ("disk_free-action", "replace", "not one of the available choices"),
        ("max_share", "101", "less than or equal to 100"),
        ("back", "gpu_mood", "no rule of that name"),
    ],
)
def test_what_cannot_be_followed_is_said_where_it_is(
    alice: House, operator: Client, field: str, typed: str, says: str
) -> None:
    answer = operator.post(page(alice), {**body(alice), field: typed})
    assert answer.status_code == 422
    shown = read(answer)
    assert says in shown.text and "nothing was changed" in shown.text
    assert shown.inline == [] and kept(alice).health_policy == {} and events() == 0


def test_nobody_overwrites_what_they_have_not_seen(alice: House, operator: Client) -> None:
    early = body(alice, gpu_ecc__hold_s="30")
    operator.post(page(alice), body(alice, gpu_ecc__hold_s="40"))
    late = operator.post(page(alice), early)
    assert late.status_code == 422 and b"Somebody changed this policy" in late.content
    assert kept(alice).health_policy == {"rules": {"gpu_ecc": {"hold_s": 40.0}}}


def test_a_policy_that_is_no_longer_valid_is_told_and_replaced(
    alice: House, operator: Client
) -> None:
    Pool.objects.filter(pk=alice.pool.id).update(health_policy={"rules": {"gpu_mood": {}}})
    assert b"There is no check &#x27;gpu_mood&#x27;" in operator.get(page(alice)).content
    operator.post(page(alice), body(alice))
    assert kept(alice).health_policy == {}


def test_what_the_policy_has_taken_out_is_named(alice: House, operator: Client) -> None:
    Node.objects.filter(pk=alice.node.id).update(health_action="drain", health_reason="gpu_ecc")
    text = operator.get(page(alice)).content.decode()
    assert "(drain, gpu ecc)" in text and f"/nodes/{alice.node.id}" in text


def test_it_is_the_operators_alone(alice: House) -> None:
    client = signed_in(alice.owner)
    assert client.get(page(alice)).status_code == 404
    assert client.post(page(alice), body(alice, gpu_ecc__hold_s="1")).status_code == 404
    assert kept(alice).health_policy == {}
    assert Client().get(page(alice)).status_code == 302
