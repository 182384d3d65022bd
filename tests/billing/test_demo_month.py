"""`make demo-month` with few companies, and with the package stripe out of reach."""

import os
import subprocess
import sys

from tests.test_layout import ROOT


def test_a_month_holds_to_the_cent_without_stripe() -> None:
    own = ("STOA_", "DATABASE_", "BROKER_", "DJANGO_", "PYTEST_")
    env = {name: value for name, value in os.environ.items() if not name.startswith(own)}
    command = [sys.executable, "-P", "-m", "tests.month.story", "--companies", "4"]
    done = subprocess.run(
        [*command, "--without-stripe"],
        cwd=ROOT,
        env=env,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "4 from their exports alone, 3 in a process" in done.stdout
    assert "4 transfers of" in done.stdout
    assert "Everything holds" in done.stdout
