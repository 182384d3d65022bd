"""Costs by project, key, endpoint and hour; and their accrual in the ledger."""

import json
import threading
from datetime import timedelta
from decimal import Decimal
from fractions import Fraction

import pytest
from django.db import connection

from billing import errors, rating, services
from billing.books import ledger
from billing.meters import usage
from billing.models import Account, LedgerTransaction
from billing.reports import costs
from tests.billing.events import MONTH, NOW, minutes, publish, seconds, tokens

pytestmark = pytest.mark.django_db
END = NOW + timedelta(days=1)
HOUR = timedelta(hours=1)


def by(account: Account, grouping: costs.Grouping = "endpoint", **named: str) -> costs.Costs:
    return costs.by(grouping, account.id, start=MONTH, end=END, **named)  # type: ignore[arg-type]


def test_charge_and_attribution_are_never_added_up(account: Account, price_list: None) -> None:
    usage.record([*minutes(account, NOW, 60), tokens(account, "req_1", quantity=2_000_000)])
    found = by(account)
    assert (found.charge, found.attribution) == ("0.12", "0.80")
    assert [(r.key, r.basis, r.amount, r.quantities) for r in found.rows] == [
        ("ep_1", "attribution", "0.80", {"output_tokens": 2_000_000}),
        ("ep_1", "charge", "0.12", {"device_seconds": 3600}),
    ]
    assert found.unpriced == ()


def test_groups_by_project_key_endpoint_and_hour(account: Account, price_list: None) -> None:
    usage.record(
        [
            *minutes(account, NOW, 90),
            *minutes(account, NOW, 30, project_id="prj_2", endpoint_id="ep_2", id="x")[:1],
            tokens(account, "req_1"),
            tokens(account, "req_2", key_id="key_2", project_id="prj_2"),
        ]
    )

    def keys(grouping: costs.Grouping, basis: str = "charge") -> list[tuple[str, int]]:
        rows = [row for row in by(account, grouping).rows if row.basis == basis]
        return [(row.key, sum(row.quantities.values())) for row in rows]

    assert keys("project") == [("prj_1", 5400), ("prj_2", 60)]
    assert keys("endpoint") == [("ep_1", 5400), ("ep_2", 60)]
    assert keys("hour") == [("2026-03-15T12:00:00Z", 3660), ("2026-03-15T13:00:00Z", 1800)]
    assert keys("key", "attribution") == [("key_1", 1000), ("key_2", 1000)]
    only = by(account, "hour", project_id="prj_2")
    assert [sum(row.quantities.values()) for row in only.rows] == [1000, 60]
    assert by(account, endpoint_id="ep_2").charge_exact == "0.002000000"


def test_another_accounts_usage_and_other_times_are_not_there(
    account: Account, price_list: None
) -> None:
    other = services.open_account(name="other", now=MONTH)
    usage.record(
        [
            seconds(other, id="a"),
            seconds(account, END, id="b"),
            seconds(account, MONTH - timedelta(microseconds=1), id="c"),
            seconds(account, MONTH, id="d"),
        ]
    )
    assert by(account).rows[0].quantities == {"device_seconds": 60}
    with pytest.raises(errors.UnknownAccount):
        costs.by("hour", "acc_nobody", start=MONTH, end=END)


def test_one_rounding_for_each_line_and_a_price_change_makes_two(account: Account) -> None:
    old, new = publish("1.00", MONTH), publish("3.00", NOW + timedelta(minutes=30), now=MONTH)
    usage.record(minutes(account, NOW, 61))
    found = by(account)
    assert [(line.price_id, line.quantity, line.amount) for line in found.lines] == [
        (old, 1800, "0.50"),
        (new, 1860, "1.55"),
    ]
    assert found.charge == "2.05"
    (row,) = by(account, "project").rows
    assert (row.amount, row.exact) == ("2.05", "2.050000000")


def test_parts_of_devices_stand_in_lines_of_their_own(account: Account) -> None:
    """Together they cost what the device would; rows count them for what they are of it."""
    publish("1.00", MONTH)
    shares = (400, 600, 1000)
    usage.record(seconds(account, NOW, 3600, id=f"of {share}", share=share) for share in shares)
    running = [costs.Running("prj_1", "ep_1", "cpu", 1800, share=500)]
    found = costs.by("endpoint", account.id, start=MONTH, end=END, running=running)
    assert [(line.share, line.quantity, line.amount) for line in found.lines] == [
        (1000, 3600, "1.00"),
        (600, 3600, "0.60"),
        (500, 1800, "0.25"),
        (400, 3600, "0.40"),
    ]
    (row,) = found.rows
    assert (row.quantities, row.exact) == ({"device_seconds": 8100}, "2.250000000")


def test_an_hour_of_shares_is_accrued_exactly_and_once(account: Account) -> None:
    publish("2.49", MONTH)
    hour = NOW.replace(minute=0)
    usage.record(seconds(account, hour, 7, id=f"of {n}", share=n) for n in (1, 333, 999))
    posted = services.accrue(account.id, hour, now=hour + 2 * HOUR)
    exact = [Fraction("2.49") * 7 / 3600 * n / 1000 for n in (1, 333, 999)]
    assert posted.amount == sum((rating.rounded(one, 9) for one in exact), Decimal(0))
    assert services.unaccrued(hour, hour + HOUR) == []


def test_many_small_rows_do_not_drift_from_the_line(account: Account) -> None:
    """Eight devices for 30 days at 2.49: 14 342.40, whatever the rows are rounded to."""
    publish("2.49", MONTH)
    usage.record(
        seconds(account, MONTH + n * HOUR, 8 * 3600, id=f"hour {n}") for n in range(30 * 24)
    )
    found = costs.by("hour", account.id, start=MONTH, end=MONTH + timedelta(days=30))
    assert len(found.rows) == 720
    assert found.charge == "14342.40"
    assert sum(Decimal(row.exact) for row in found.rows) == Decimal("14342.40")


def test_usage_without_a_price_is_listed(account: Account) -> None:
    usage.record([seconds(account)])
    found = by(account)
    assert found.charge == "0.00"
    assert [(one.key, one.meter, one.quantity) for one in found.unpriced] == [
        ("ep_1", "device_seconds", 60)
    ]


def test_so_far_adds_what_runs(account: Account, price_list: None) -> None:
    before = NOW.replace(month=2)
    usage.record([*minutes(account, NOW - HOUR, 60), seconds(account, before, id="february")])
    running = [
        costs.Running("prj_1", "ep_1", "cpu", 1800),
        costs.Running("prj_2", "ep_2", "cpu", 3600),
        costs.Running("prj_2", "ep_3", "cpu", 0),
    ]
    found = costs.so_far(account.id, now=NOW, running=running)
    assert [(row.key, row.amount) for row in found.rows] == [("ep_1", "0.18"), ("ep_2", "0.12")]
    assert found.charge == "0.30"
    assert costs.so_far(account.id, now=NOW, project_id="prj_2", running=running).charge == "0.12"
    assert found.start == "2026-03-01T00:00:00Z"


def test_money_in_json_is_text(account: Account, price_list: None) -> None:
    usage.record([seconds(account)])
    shown = json.loads(json.dumps(by(account).as_json()))
    assert shown["charge"] == "0.00"
    assert shown["charge_exact"] == "0.002000000"
    assert shown["lines"][0]["unit_amount"] == "0.120000000000"
    assert shown["lines"][0]["unit_size"] == 3600


def unbilled(account: Account) -> Decimal:
    return ledger.balance(f"unbilled:{account.id}")


def test_an_hour_is_accrued_once_and_late_usage_adds_the_difference(
    account: Account, price_list: None
) -> None:
    usage.record([*minutes(account, NOW, 59), tokens(account, "req_1")])
    first = services.accrue(account.id, NOW + timedelta(minutes=20), now=NOW + HOUR)
    assert first.posted is not None
    assert first.amount == unbilled(account) == Decimal("0.118000000")
    assert services.accrue(account.id, NOW, now=NOW + HOUR).posted is None
    usage.record([seconds(account, NOW + timedelta(minutes=59))])
    late = services.accrue(account.id, NOW, now=NOW + HOUR)
    assert late.posted is not None
    assert unbilled(account) == Decimal("0.12")
    assert ledger.balance("revenue:device_seconds") == Decimal("-0.12")
    assert services.accrue(account.id, NOW, now=NOW + HOUR).posted is None


def test_an_hour_that_is_not_over_is_not_accrued(account: Account) -> None:
    with pytest.raises(ValueError, match="not over"):
        services.accrue(account.id, NOW, now=NOW + timedelta(minutes=59))


def test_unpriced_usage_is_accrued_once_it_has_a_price(account: Account) -> None:
    usage.record(minutes(account, NOW, 60))
    before = services.accrue(account.id, NOW, now=NOW + HOUR)
    assert before.posted is None
    assert [one.quantity for one in before.unpriced] == [3600]
    publish("0.50", MONTH, now=NOW + HOUR)
    assert services.accrue(account.id, NOW, now=NOW + HOUR).amount == Decimal("0.5")
    assert unbilled(account) == Decimal("0.5")


@pytest.mark.django_db(transaction=True)
def test_accruals_at_once_post_once(account: Account, price_list: None) -> None:
    usage.record(minutes(account, NOW, 60))
    posted: list[bool] = []
    barrier = threading.Barrier(6)

    def accrue() -> None:
        barrier.wait()
        try:
            posted.append(services.accrue(account.id, NOW, now=NOW + HOUR).posted is not None)
        finally:
            connection.close()

    threads = [threading.Thread(target=accrue) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(posted) == [False] * 5 + [True]
    assert LedgerTransaction.objects.count() == 1
    assert unbilled(account) == Decimal("0.12")
