"""From accruals to cents and back: each posting balances, and no part of a cent is lost."""

from collections import defaultdict
from decimal import ROUND_HALF_UP, Decimal
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from billing.books import chart, ledger
from billing.books.ledger import Entry
from billing.models import Account, LedgerTransaction
from tests.billing.events import MONTH, NOW

ACC = "acc_1"
VAT = (chart.Vat("DE", Decimal("19.0"), 1900),)


def sums(entries: list[Entry]) -> dict[str, int]:
    found: defaultdict[str, int] = defaultdict(int)
    for entry in entries:
        found[entry.code] += entry.amount
    return dict(found)


def balanced(entries: list[Entry]) -> bool:
    by: defaultdict[tuple[str, int], int] = defaultdict(int)
    for entry in entries:
        by[entry.currency, entry.scale] += entry.amount
    return not any(by.values())


def test_an_invoice_goes_over_the_bridge() -> None:
    sale = chart.Sale(
        *("inv_1", ACC, 10_000, VAT),
        accrued=109_996_000_000,
        discount=15_000_000_000,
        extra={"commitment": 5_000_000_000},
        lines=1,
    )
    entries = chart.invoice_entries(sale)
    assert sums(entries) == {
        f"receivable:{ACC}": 11_900,
        "bridge:s2": -10_000,
        "vat:DE:19": -1900,
        f"unbilled:{ACC}": -109_996_000_000,
        "revenue:commitment": -5_000_000_000,
        "discount": 15_000_000_000,
        "bridge:s9": 100_000_000_000,
        "rounding": -4_000_000,
    }
    assert balanced(entries)


def test_what_rounding_cannot_explain_is_a_difference_by_name() -> None:
    entries = chart.invoice_entries(chart.Sale("inv_1", ACC, 10_000, lines=3))
    assert sums(entries)["accrual_difference"] == -100_000_000_000
    assert "rounding" not in sums(entries)
    assert balanced(entries)


@settings(max_examples=60, deadline=None)
@given(
    lines=st.lists(
        st.fractions(min_value=-50, max_value=50, max_denominator=10**7), min_size=1, max_size=12
    ),
    rate=st.sampled_from(["0", "19", "25.5", "8.1"]),
)
def test_no_part_of_a_cent_is_lost(lines: list[Fraction], rate: str) -> None:
    """The accruals round to 10^-9, the lines to cents: the difference is all in `rounding`."""
    accrued = sum(_units(line, 9) for line in lines)
    net = sum(_units(line, 2) for line in lines)
    tax = _units(Fraction(net) * Fraction(rate) / 10_000, 2)
    vat = (chart.Vat("FI", Decimal(rate), tax),)
    sale = chart.Sale("inv_1", ACC, net, vat, accrued=accrued, lines=len(lines))
    entries = chart.invoice_entries(sale)
    found = sums(entries)
    assert balanced(entries)
    assert found.get("bridge:s2", 0) * 10**7 + found.get("bridge:s9", 0) == 0
    assert found.get("rounding", 0) == accrued - net * 10**7
    assert abs(found.get("rounding", 0)) <= len(lines) * (10**7 // 2 + 1)
    assert "accrual_difference" not in found
    # Its credit note takes it all back, to the revenue that loses by it.
    back = sums(chart.credit_note_entries(sale))
    for code in (f"receivable:{ACC}", "bridge:s2", "bridge:s9", "vat:FI:" + rate):
        assert found.get(code, 0) + back.get(code, 0) == 0
    assert back.get("revenue:corrections", 0) == net * 10**7


def _units(value: Fraction, scale: int) -> int:
    exact = Decimal(value.numerator) / Decimal(value.denominator)
    return int(exact.quantize(Decimal(1).scaleb(-scale), ROUND_HALF_UP).scaleb(scale))


def test_an_advance_is_credit_and_its_tax_is_owed_once() -> None:
    advance = chart.Sale("inv_a", ACC, 10_000, VAT)
    assert sums(chart.advance_entries(advance)) == {
        f"receivable:{ACC}": 11_900,
        f"prepaid:{ACC}": -10_000,
        "vat:DE:19": -1900,
    }
    assert sums(chart.apply_credit_entries(ACC, 11_900, VAT)) == {
        f"receivable:{ACC}": -11_900,
        f"prepaid:{ACC}": 10_000,
        "vat:DE:19": 1900,
    }


def test_a_debt_that_will_not_come_gives_its_tax_back() -> None:
    assert sums(chart.write_off_entries(ACC, 11_900, VAT)) == {
        f"receivable:{ACC}": -11_900,
        "bad_debt": 10_000,
        "vat:DE:19": 1900,
    }


def test_credit_that_ran_out_is_revenue() -> None:
    entries = chart.expired_entries(ACC, 250)
    assert balanced(entries)
    assert sums(entries)["revenue:expired"] == -250 * 10**7


@pytest.mark.django_db
def test_what_is_unbilled_is_told_by_the_hour_of_the_usage(account: Account) -> None:
    for hour, units in ((MONTH, 5), (NOW, 7)):
        ledger.post(
            idempotency_key=f"accrual:{account.id}:{int(hour.timestamp())}:0",
            kind="accrual",
            effective_at=NOW,  # late: its hour's books are closed
            entries=[
                Entry(f"unbilled:{account.id}", units, scale=9),
                Entry("revenue:x", -units, scale=9),
            ],
        )
    assert chart.accrued_until(account.id, NOW) == 5
    sale = chart.Sale("inv_1", account.id, 0, accrued=5)
    posted = chart.post_invoice(sale, at=NOW)
    assert posted is not None
    assert chart.post_invoice(sale, at=NOW) == posted
    assert chart.accrued_until(account.id, NOW) == 0
    assert ledger.balance(f"unbilled:{account.id}") == Decimal("0.000000007")
    assert chart.post_invoice(chart.Sale("inv_2", account.id, 0), at=NOW) is None
    assert LedgerTransaction.objects.filter(kind="invoice").count() == 1
