"""`make demo-month` with few companies, with Stripe and with its package out of reach."""

import os
import subprocess
import sys

from tests.test_layout import ROOT


def test_a_month_holds_to_the_cent_without_stripe() -> None:
    said = month("--without-stripe")
    assert "4 from their exports alone, 3 in a process" in said
    assert "4 transfers of" in said


def test_and_with_some_who_pay_by_it() -> None:
    said = month()
    assert "1 Card, 1 SEPA direct debit, 1 on Stripe's page" in said
    assert "1 transfers of" in said


def month(*more: str) -> str:
    own = ("STOA_", "DATABASE_", "BROKER_", "DJANGO_", "PYTEST_")
    env = {name: value for name, value in os.environ.items() if not name.startswith(own)}
    command = [sys.executable, "-P", "-m", "tests.month.story", "--companies", "4"]
    done = subprocess.run(
        [*command, *more],
        cwd=ROOT,
        env=env,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Everything holds" in done.stdout
    return done.stdout
