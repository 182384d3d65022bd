"""What accounts have of their own: prices that beat the list, prices that end, terms. And no
price of egress, in any table."""

from dataclasses import replace
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from django.db import DatabaseError

from billing import errors, rating, services
from billing.meters import usage
from billing.models import Account, Price, Term
from billing.pricing import agreements, prices, skus
from billing.pricing.terms import Allowance, Commitment, Tier
from compliance import audit
from compliance.models import AuditEvent
from tests.billing.events import MONTH, NOW, minutes, publish, seconds
from tests.billing.test_costs import by
from tests.billing.test_database import Sql

NEXT = datetime(2026, 4, 1, tzinfo=MONTH.tzinfo)
HOUR = timedelta(hours=1)
LESS = Commitment("", NEXT, Decimal("50.00"))


def agree(account: Account, term: Any, now: datetime = NOW) -> Term:
    return agreements.agree(actor=audit.SYSTEM, account_id=account.id, term=term, now=now)


def withdraw(at: datetime, **fields: Any) -> Price:
    named: dict[str, Any] = {"meter": "device_seconds", "device_kind": "cpu", "now": NOW}
    return prices.withdraw(actor=audit.SYSTEM, at=at, **named | fields)


def test_an_accounts_own_price_is_what_it_is_shown_and_owes(account: Account) -> None:
    """From mid-hour on, for it alone, and until it ends."""
    other = services.open_account(name="other", now=MONTH)
    publish("2.00", MONTH)
    own = publish("1.00", NOW + HOUR / 2, NOW, account_id=account.id, valid_to=NOW + 2 * HOUR)
    for one in (account, other):
        usage.record(seconds(one, NOW + n * HOUR / 60, id=f"{one.id}:{n}") for n in range(180))
    found = [(line.quantity, line.amount) for line in by(account).lines]
    assert found == [(1800 + 3600, "3.00"), (5400, "1.50")]
    assert by(other).charge == "6.00"
    shown = prices.in_force("device_seconds", "cpu", at=NOW + HOUR, account_id=account.id)
    assert shown is not None and shown.id == own
    assert services.accrue(account.id, NOW, now=NOW + HOUR).amount == Decimal("1.5")
    assert services.accrue(other.id, NOW, now=NOW + HOUR).amount == Decimal("2")
    assert services.unaccrued(NOW, NOW + HOUR) == []


def test_a_price_that_ends_leaves_a_gap_that_is_said(account: Account) -> None:
    publish("2.00", MONTH)
    withdraw(NOW + HOUR)
    publish("3.00", NOW + 2 * HOUR, NOW)
    usage.record(minutes(account, NOW, 180))
    found = by(account)
    assert [(line.quantity, line.amount) for line in found.lines] == [
        (3600, "2.00"),
        (3600, "3.00"),
    ]
    assert [(one.meter, one.quantity) for one in found.unpriced] == [("device_seconds", 3600)]
    # What is unpriced may get a price afterwards; what had one may not.
    with pytest.raises(errors.PriceRefused, match="future"):
        publish("1.00", NOW, NOW + 3 * HOUR)
    publish("1.00", NOW + HOUR, NOW + 3 * HOUR, device_kind="", valid_to=NOW + 2 * HOUR)
    assert by(account).unpriced == ()


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"account_id": "acc_nobody"}, "acc_nobody"),
        ({"account_id": "mine", "currency": "USD"}, "in EUR"),
        ({"valid_to": NOW}, "ends after"),
        ({"valid_to": NOW.replace(tzinfo=None)}, "zone"),
        ({"meter": "egress"}, "no such meter"),
    ],
)
def test_absurd_prices_are_refused(account: Account, fields: dict[str, Any], problem: str) -> None:
    if fields.get("account_id") == "mine":
        fields = {**fields, "account_id": account.id}
    with pytest.raises(errors.BillingError, match=problem):
        publish("1", NOW, NOW, **fields)


def test_nobodys_tokens_cost_more_than_a_gateway_reserves(
    account: Account, price_list: None
) -> None:
    tokens: dict[str, Any] = {"meter": "output_tokens", "device_kind": "", "now": NOW}
    publish("0.30", NEXT, **tokens, account_id=account.id)
    with pytest.raises(errors.PriceRefused, match="more"):
        publish("0.41", NEXT + HOUR, **tokens, account_id=account.id)
    with pytest.raises(errors.PriceRefused, match="more"):
        publish("0.20", NEXT + HOUR, **tokens)
    with pytest.raises(errors.PriceRefused, match="more"):
        withdraw(NEXT + HOUR, **tokens)
    assert Price.objects.filter(meter="output_tokens").count() == 2


def test_what_is_withdrawn_must_be_there_and_cannot_be_past(account: Account) -> None:
    publish("2.00", MONTH)
    with pytest.raises(errors.PriceRefused, match="future"):
        withdraw(NOW - HOUR)
    with pytest.raises(errors.PriceRefused, match="no such price"):
        withdraw(NEXT, account_id=account.id)
    own = publish("1.00", NEXT, NOW, account_id=account.id)
    gone = withdraw(NEXT + HOUR, account_id=account.id)
    with pytest.raises(errors.PriceRefused, match="no such price"):
        withdraw(NEXT + 2 * HOUR, account_id=account.id)
    table = rating.PriceTable(prices.versions("EUR", account.id), "EUR", account.id)
    spans = table.spans("device_seconds", "cpu", NEXT - HOUR, NEXT + 2 * HOUR)
    assert [price.amount for _, _, price in spans if price] == [2, 1, 2]
    assert [start for start, _, _ in spans] == [NEXT - HOUR, NEXT, NEXT + HOUR]
    assert (spans[1][2] and spans[1][2].id, gone.valid_to) == (own, gone.valid_from)


def test_terms_are_agreed_for_months_to_come(account: Account) -> None:
    assert agree(account, LESS).amount == 5000
    assert agree(account, LESS).id == Term.objects.get().id
    for term, why in (
        (replace(LESS, amount=Decimal(1)), "something else"),
        (replace(LESS, valid_from=NEXT + HOUR), "whole months"),
        (replace(LESS, valid_from=MONTH - timedelta(days=28)), "to come"),
        (replace(LESS, currency="USD"), "in EUR"),
        (replace(LESS, note="x" * 101), "too long"),
    ):
        with pytest.raises(errors.TermRefused, match=why):
            agree(account, term)
    # Only an account of this very month may begin with terms for it.
    agree(account, replace(LESS, valid_from=MONTH))
    Account.objects.filter(id=account.id).update(created_at=MONTH - HOUR)
    with pytest.raises(errors.TermRefused, match="to come"):
        agree(account, Tier("", MONTH, "device_seconds", 0, 100))
    with pytest.raises(errors.UnknownAccount):
        agreements.agree(actor=audit.SYSTEM, account_id="acc_x", term=LESS, now=NOW)


def test_terms_come_back_as_they_were_agreed(account: Account) -> None:
    free = Allowance("", NEXT, "warm_seconds", "cpu", 3600, note="a free hour")
    euro = Allowance("", NEXT, amount=Decimal("12.34"))
    tiers = [Tier("", NEXT, "output_tokens", over, over // 10) for over in (1000, 2000)]
    ids = [agree(account, term).id for term in (free, euro, LESS, *tiers)]
    found = agreements.of(account.id)
    kept: list[Any] = [*found.allowances, *found.commitments, *found.tiers]
    assert [one.id for one in kept] == ids
    assert tuple(replace(one, id="") for one in found.allowances) == (free, euro)
    assert tuple(replace(one, id="") for one in found.commitments) == (LESS,)
    assert [replace(one, id="") for one in found.tiers] == tiers
    told = AuditEvent.objects.filter(action="term.create").values_list("target_id", flat=True)
    assert sorted(told) == sorted(ids)


TERM = (
    "INSERT INTO billing_term (id, account_id, kind, meter, device_kind, quantity, discount,"
    " amount, currency, note, valid_from, created_at)"
    " VALUES ('trm_x', %s, %s, %s, '', %s, %s, %s, 'EUR', '', %s, now())"
)


@pytest.mark.parametrize(
    ("given", "why"),
    [
        (("allowance", "egress", 1, 0, 0, "2026-04-01Z"), "term_never_egress"),
        (("tier", "bandwidth", 1, 1, 0, "2026-04-01Z"), "term_never_egress"),
        (("tier", "", 1, 1, 0, "2026-04-01Z"), "term_shape"),
        (("commitment", "device_seconds", 0, 0, 5, "2026-04-01Z"), "term_shape"),
        (("allowance", "", 7, 0, 0, "2026-04-01Z"), "term_shape"),
        (("commitment", "", 0, 0, -5, "2026-04-01Z"), "term_not_negative"),
        (("tier", "device_seconds", 0, 1001, 0, "2026-04-01Z"), "term_not_negative"),
        (("commitment", "", 0, 0, 5, "2026-04-02Z"), "term_whole_months"),
    ],
)
def test_the_database_refuses_terms_of_egress_and_nonsense(
    account: Account, sql: Sql, given: tuple[Any, ...], why: str
) -> None:
    with pytest.raises(DatabaseError, match=why):
        sql(TERM, account.id, *given)


def test_terms_and_prices_are_only_added(account: Account, sql: Sql) -> None:
    publish("2.00", NEXT, NOW, account_id=account.id)
    agree(account, LESS)
    for statement in ("UPDATE billing_term SET amount = 1", "DELETE FROM billing_term"):
        with pytest.raises(DatabaseError, match="rows are only added"):
            sql(statement)
    with pytest.raises(DatabaseError, match="price_ends"):
        sql(
            "INSERT INTO billing_price (id, meter, device_kind, currency, amount, valid_from,"
            " valid_to, created_at) VALUES ('p', 'device_seconds', '', 'EUR', 1, now(),"
            " now() - interval '1 s', now())"
        )
    for column in ("price_version", "term_once"):
        table = {"price_version": "price", "term_once": "term"}[column]
        with pytest.raises(DatabaseError, match=column):
            sql(
                f"INSERT INTO billing_{table} SELECT (jsonb_populate_record(t, "
                """'{"id": "again"}')).* FROM """ + f"billing_{table} t"
            )


def test_skus_name_meter_and_kind_and_never_two_alike() -> None:
    assert skus.code("device_seconds", "nvidia-h200") == "serving-hour/nvidia-h200"
    kinds = ["", "*", "any", "a b", "a%20b", "a/b", "A B"]
    codes = {skus.code(meter, kind) for meter in rating.UNITS_PER_PRICE for kind in kinds}
    assert len(codes) == len(rating.UNITS_PER_PRICE) * len(kinds)
    with pytest.raises(KeyError):
        skus.code("egress")
