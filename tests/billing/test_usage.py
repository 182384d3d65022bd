"""Usage enters once for each id, in any order and grouping; a conflict keeps nothing."""

import random
import threading
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.db import connection, transaction

from billing import errors
from billing.meters import usage
from billing.models import Account, UsageEvent
from compliance import audit
from controlplane.tenancy import datasets
from controlplane.tenancy.models import Organization
from tests.billing.events import MONTH, NOW, minutes, seconds, tokens


def total() -> int:
    return sum(UsageEvent.objects.values_list("quantity", flat=True))


def test_what_goes_in_comes_out(account: Account) -> None:
    who: dict[str, Any] = {"agent": "agt_1", "run": "run_1/run_2"}
    event = tokens(account, "req_1", flags=("cut_off", "estimated"), quantity=10**12, **who)
    assert usage.record([event]) == 1
    kept = UsageEvent.objects.get()
    assert (kept.id, kept.at, kept.quantity) == ("req_1:output_tokens", NOW, 10**12)
    assert (kept.account_id, kept.meter, kept.basis) == (account.id, "output_tokens", "attribution")
    assert kept.flags == ["cut_off", "estimated"]
    assert (kept.agent, kept.run) == ("agt_1", "run_1/run_2")
    (row,) = usage.rows(account.id, MONTH, NOW + timedelta(days=1))
    shown = dict(zip(usage.EXPORTED, row, strict=True))
    assert (shown["flags"], shown["agent"]) == ("cut_off estimated", "agt_1")


def test_a_repetition_counts_once(account: Account) -> None:
    events = minutes(account, NOW, 10)
    assert usage.record(events[:6]) == 6
    assert usage.record(events[3:]) == 4
    assert usage.record([*events, *events]) == 0
    assert usage.record([]) == 0
    assert total() == 600


def test_order_duplication_and_grouping_do_not_change_totals(account: Account) -> None:
    draw = random.Random(7)
    events = minutes(account, datetime(2026, 1, 31, 23, 0, tzinfo=UTC), 120)
    deliveries = draw.choices(events, k=400) + events
    draw.shuffle(deliveries)
    inserted = 0
    while deliveries:
        size = draw.randint(1, 40)
        inserted += usage.record(deliveries[:size])
        del deliveries[:size]
    assert inserted == 120
    assert total() == 120 * 60


@pytest.mark.parametrize(
    "change", [{"quantity": 61}, {"account_id": "acc_other"}, {"flags": ("late",)}]
)
def test_one_id_with_two_contents_is_refused_and_nothing_of_the_batch_kept(
    account: Account, change: dict[str, object]
) -> None:
    first, other, last = minutes(account, NOW, 3)
    usage.record([first])
    with pytest.raises(errors.UsageConflict) as caught:
        usage.record([other, replace(first, **change), last])  # type: ignore[arg-type]
    assert caught.value.ids == [first.id]
    assert total() == 60
    with pytest.raises(errors.UsageConflict):
        usage.record([last, replace(last, **change)])  # type: ignore[arg-type]


@pytest.mark.parametrize("moved", [timedelta(seconds=1), timedelta(days=-20), timedelta(days=20)])
def test_an_id_that_comes_back_at_another_time_is_no_second_event(
    account: Account, moved: timedelta
) -> None:
    """The key is (id, at): across partitions, only this check stands between us and a double."""
    event = seconds(account)
    usage.record([event])
    with pytest.raises(errors.UsageConflict):
        usage.record([replace(event, at=event.at + moved)])
    assert total() == 60


def test_a_time_without_a_zone_is_refused(account: Account) -> None:
    with pytest.raises(ValueError, match="without a zone"):
        usage.record([seconds(account, NOW.replace(tzinfo=None))])


@pytest.mark.parametrize("quantity", [0, -1, 10**12 + 1, 1.5, True, "60"])
def test_a_quantity_that_cannot_be_is_refused_with_all_of_its_batch(
    account: Account, quantity: Any
) -> None:
    good, bad, other = minutes(account, NOW, 3)
    with pytest.raises(errors.UsageRefused) as caught:
        usage.record([good, replace(bad, quantity=quantity), other])
    assert caught.value.ids == [bad.id]
    assert total() == 0


def test_what_stands_in_a_text_cannot_end_it(account: Account) -> None:
    odd = "a\"b\\c,{d}'e\n\t"
    event = seconds(account, id=odd, key_id="NULL", device_kind="", flags=(odd,))
    assert [usage.record([event]) for _ in range(2)] == [1, 0]
    kept = UsageEvent.objects.get()
    assert (kept.id, kept.key_id, kept.device_kind, kept.flags) == (odd, "NULL", "", [odd])


def test_joins_the_callers_transaction(account: Account) -> None:
    with pytest.raises(RuntimeError), transaction.atomic():
        usage.record([seconds(account)])
        raise RuntimeError
    assert total() == 0


@pytest.mark.django_db(transaction=True)
def test_writers_at_once_count_once(transactional_db: None) -> None:
    from_all = Account(id="acc_1", name="all", created_at=MONTH)
    events = minutes(from_all, NOW, 200)
    inserted: list[int] = []
    failures: list[BaseException] = []
    barrier = threading.Barrier(8)

    def write(number: int) -> None:
        mine = list(events)
        random.Random(number).shuffle(mine)
        barrier.wait()
        try:
            inserted.append(sum(usage.record(part) for part in parts(mine)))
        except BaseException as failure:
            failures.append(failure)
        finally:
            connection.close()

    threads = [threading.Thread(target=write, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert sum(inserted) == 200
    assert total() == 200 * 60


def parts(events: list[usage.Event]) -> list[list[usage.Event]]:
    return [events[i : i + 50] for i in range(0, len(events), 50)]


def test_an_export_has_the_usage_of_its_own_organization_alone(account: Account) -> None:
    ours = Organization.objects.create(
        name="Ours", region_code="eu-de-1", account=account, created_at=MONTH
    )
    usage.record([seconds(account), *minutes(Account(id="acc_x", created_at=MONTH), NOW, 3)[1:]])
    end = NOW + timedelta(days=1)
    (row,) = datasets.usage_events(ours.id, MONTH, end)
    shown = dict(zip(usage.EXPORTED, row, strict=True))
    assert (shown["account_id"], shown["quantity"], shown["flags"]) == (account.id, 60, "")
    assert list(datasets.usage_events(audit.PLATFORM, MONTH, end)) == []
    assert list(datasets.usage_events(ours.id, MONTH, NOW)) == []


def test_pages_follow_each_other_in_time(account: Account) -> None:
    # Ids in another order than their times, and three that share one.
    events = [tokens(account, f"req_{9 - n}", NOW + timedelta(minutes=n // 3)) for n in range(9)]
    usage.record([*events, tokens(account, "req_other", project_id="prj_other")])
    expected = sorted(events, key=lambda event: (event.at, event.id))

    def page(after: str = "", **asked: str) -> list[str]:
        found = usage.page(
            [account.id], ["prj_1"], NOW, NOW + timedelta(hours=1), after=after, limit=2, **asked
        )
        return [event.id for event in found]

    found = page()
    while more := page(found[-1]):
        found += more
    assert found == [event.id for event in expected]
    assert page("unknown") == []
    assert page(request_id="req_3") == ["req_3:output_tokens"]
    assert page(request_id="req_other") == page(endpoint_id="ep_2") == []
