"""The close of a month: all accounts, once each, however often it is begun, ended and doubled."""

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from io import StringIO
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.db import connections
from django.utils import timezone

from billing import services
from billing.einvoice import validate
from billing.invoices import invoicing, month_end
from billing.meters import usage
from billing.models import Account, Entity, Invoice, InvoiceLine, LedgerTransaction, MonthRun
from billing.vat.vies_answer import ViesAnswer
from tests.billing import invoices
from tests.billing.events import MONTH, NOW, seconds
from tests.billing.invoices import END, NEXT, answers

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("price_list")]
AUSTRIAN = {"country": "AT", "city": "Wien", "postcode": "1010", "vat_id": "ATU13585627"}


@pytest.fixture
def entity(db: None) -> Entity:
    return invoices.entity()


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """The rules are tried elsewhere; here it is about many."""
    monkeypatch.setattr(validate, "schematron", lambda xml: [])


def opened(entity: Entity, count: int, **fields: Any) -> list[Account]:
    made = []
    for number in range(count):
        account = services.open_account(name=f"a{number}", now=MONTH)
        invoices.customer(account, entity, **fields)
        invoices.served(account, NOW, 36_000, id=f"u{account.id[-8:]}")
        made.append(account)
    return made


def test_drafts_from_the_first_day_and_invoices_after_the_grace_time(entity: Entity) -> None:
    opened(entity, 3)
    services.open_account(name="idle", now=MONTH)
    early = month_end.close_month(MONTH, END + timedelta(hours=1), ask=answers())
    assert early.as_json() == {
        "month": "2026-03", "final": False, "accounts": 4, "seen": 4,
        "outcomes": {"draft": 3, "nothing": 1}, "held": {},
    }  # fmt: skip
    told: list[int] = []
    late = month_end.close_month(MONTH, NEXT, ask=answers(), progress=lambda c: told.append(c.seen))
    assert late.outcomes == {"final": 3, "nothing": 1} and told == [1, 2, 3, 4]
    numbers = Invoice.objects.order_by("number").values_list("number", flat=True)
    assert list(numbers) == [1, 2, 3]
    again = month_end.close_month(MONTH, NEXT, ask=answers())
    assert again.outcomes == {"done": 3, "nothing": 1}
    assert month_end.state(MONTH, NEXT).outcomes == {"final": 3}
    with pytest.raises(ValueError, match="is not over"):
        month_end.close_month(NEXT, NEXT)


def test_vies_trouble_holds_one_invoice_and_not_the_run(entity: Entity) -> None:
    opened(entity, 1)
    opened(entity, 1, **AUSTRIAN)
    opened(entity, 1)

    def broken(*question: Any) -> ViesAnswer:
        raise RuntimeError("a bug in the client")

    failed = month_end.close_month(MONTH, NEXT, ask=broken)
    assert failed.outcomes == {"final": 2, "failed": 1}
    held = month_end.close_month(MONTH, NEXT, ask=answers("unavailable"))
    assert held.outcomes == {"done": 2, "held": 1}
    assert held.held.total() == 1 and month_end.state(MONTH, NEXT).held == held.held
    assert month_end.close_month(MONTH, NEXT, ask=answers()).outcomes == {"done": 2, "final": 1}


def test_usage_without_a_price_holds_its_account_alone(entity: Entity) -> None:
    opened(entity, 2)
    (third,) = opened(entity, 1)
    invoices.served(third, NOW, 60, id="odd", device_kind="h100")
    closed = month_end.close_month(MONTH, NEXT, ask=answers())
    assert closed.outcomes == {"final": 2, "held": 1} and closed.held == {"unpriced": 1}


def test_accruals_that_are_missing_are_made_first(entity: Entity, account: Account) -> None:
    invoices.customer(account, entity)
    usage.record([seconds(account, NOW, 36_000)])
    assert month_end.close_month(MONTH, NEXT, ask=answers()).outcomes == {"final": 1}
    codes = set(LedgerTransaction.objects.values_list("kind", flat=True))
    assert codes == {"accrual", "invoice"}


@pytest.mark.django_db(transaction=True)
def test_interrupted_anywhere_and_run_twice_at_once_there_is_one_invoice_each() -> None:
    entity = invoices.entity()
    count = 12
    opened(entity, count)
    stopped = 0

    def stop(closing: month_end.Closing) -> None:
        if closing.seen == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        month_end.close_month(MONTH, NEXT, ask=answers(), progress=stop)
    stopped = Invoice.objects.filter(state="final").count()
    assert stopped == 3

    def close(part: tuple[int, int]) -> month_end.Closing:
        try:
            return month_end.close_month(MONTH, NEXT, ask=answers(), part=part)
        finally:
            connections.close_all()

    with ThreadPoolExecutor(3) as pool:
        ran = list(pool.map(close, [(0, 1), (0, 1), (1, 2)]))
    assert sum(each.outcomes["final"] for each in ran) == count - stopped
    assert not any(each.outcomes["failed"] for each in ran)
    numbers = sorted(filter(None, Invoice.objects.values_list("number", flat=True)))
    assert numbers == list(range(1, count + 1))
    assert InvoiceLine.objects.filter(kind="usage").count() == count
    assert LedgerTransaction.objects.filter(kind="invoice").count() == count
    assert invoicing.period(MONTH)[1] == END


def test_workers_take_the_month_further_a_piece_at_a_time(entity: Entity) -> None:
    opened(entity, 2)
    opened(entity, 1, **AUSTRIAN)
    early, never = END + timedelta(hours=1), (lambda: False)

    def one_account() -> Callable[[], bool]:
        looks = iter((False, True, True, True))
        return lambda: next(looks)

    for _ in range(3):
        assert month_end.tend(early, enough=one_account(), ask=answers())
    assert not month_end.tend(early, enough=never, ask=answers())
    run = MonthRun.objects.get(final=False)
    assert run.outcomes == {"draft": 3} and run.ended_at == early
    assert month_end.tend(early + timedelta(days=1), enough=never, ask=answers())  # drawn anew

    assert month_end.tend(NEXT, enough=never, ask=answers("unavailable"))
    assert MonthRun.objects.get(final=True).outcomes == {"final": 2, "held": 1}
    assert not month_end.tend(NEXT, enough=never, ask=answers())
    later = NEXT + timedelta(hours=1)
    assert month_end.tend(later, enough=never, ask=answers(checked_at=later))
    assert not Invoice.objects.filter(state="draft").exists()


def test_the_command_closes_a_month_and_says_how_far_it_is(
    entity: Entity, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened(entity, 2)
    monkeypatch.setattr(timezone, "now", lambda: NEXT)
    out = StringIO()
    call_command("billing", "close", "2026-03", "--json", stdout=out)
    assert json.loads(out.getvalue())["outcomes"] == {"final": 2}
    out = StringIO()
    call_command("billing", "close", "2026-03", "--show", stdout=out)
    assert "2026-03: invoices; 2 of 2 accounts" in out.getvalue()
    for wrong, words in (("2026-13", "is no month"), ("2026-04", "is not over")):
        with pytest.raises(CommandError, match=words):
            call_command("billing", "close", wrong)
