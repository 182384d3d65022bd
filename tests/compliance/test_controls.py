"""The Annex A pack: which controls have evidence, and that a quarter of it adds up."""

import re

from compliance import control_list, controls
from compliance.bundles import kinds
from tests.test_layout import ROOT


def test_each_control_has_producers_or_says_why_none() -> None:
    numbers = {5: 37, 6: 8, 7: 14, 8: 34}
    expected = [f"A.{part}.{n}" for part, last in numbers.items() for n in range(1, last + 1)]
    assert list(controls.CONTROLS) == expected
    for id, control in controls.CONTROLS.items():
        assert control.title and len(control.title) < 70
        assert controls.of_control(id) or control.beside, f"{id} has no evidence and no reason"


def test_each_producer_is_a_table_of_the_pack() -> None:
    held = {one.name for one in kinds.kinds[controls.KIND].chosen(controls.PLATFORM)}
    assert held == set(controls.producers)
    for one in controls.producers.values():
        assert one.controls and one.population and one.logs
        assert one.events is None or {"index", "event"} <= set(one.dataset.columns)


def test_the_list_in_the_documents_is_the_code_s() -> None:
    """Where it is not: `stoa evidence controls > docs/controls.md`."""
    assert (ROOT / "docs" / "controls.md").read_text() == control_list.markdown()


def test_the_state_of_evidence_names_tests_that_are_there() -> None:
    text = (ROOT / "docs" / "evidence-status.md").read_text()
    rows = [line.split(" | ") for line in text.splitlines() if re.match(r"\| \d+ \|", line)]
    assert [row[0] for row in rows] == [f"| {n}" for n in range(1, 26)]
    assert {re.split(r"[ :;]", row[2])[0] for row in rows} == {"built", "in", "waits"}
    named = re.findall(r"tests/[\w/]+(?:\.py)?", text)
    assert len(named) > 30
    assert [path for path in named if not (ROOT / path).exists()] == []
    rooms = re.findall(r"`((?:compliance|billing|workers|controlplane)/[\w/.]+)`", text)
    found = [(ROOT / path).exists() or (ROOT / "platform" / path).exists() for path in rooms]
    assert len(rooms) > 15 and all(found)
