"""Every trap of docs/traps.md has a test that shows it, and every mark is in that table."""

import re

from tests.test_layout import ROOT

ROW = re.compile(r"^\| ([a-z-]+) \| ", re.MULTILINE)
MARK = re.compile(r"mark\.trap\(([^)]+)\)")


def test_each_trap_has_a_test() -> None:
    listed = ROW.findall((ROOT / "docs" / "traps.md").read_text())
    listed.remove("trap")  # the head of the table
    marks = [
        names
        for path in (ROOT / "tests").rglob("test_*.py")
        if path.name != "test_traps.py"
        for names in MARK.findall(path.read_text())
    ]
    shown = {name for names in marks for name in re.findall(r'"([^"]+)"', names)}
    assert len(listed) == len(set(listed)) > 10
    assert shown == set(listed)
