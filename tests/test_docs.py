"""The documents agree with the code."""

import re
from pathlib import Path

from tests.test_layout import ROOT, python_files

SETTING = re.compile(r'"(STOA_[A-Z_]+|DATABASE_URL|BROKER_URL)"')
# Marks that our own processes put on engines, and what only the tests set.
INTERNAL = {"STOA_AGENT", "STOA_REPLICA", "STOA_TEST_SERVERS"}
LINK = re.compile(r"\]\(([^)#]+)\)")


def test_every_setting_is_documented_and_every_documented_one_exists() -> None:
    code = {
        name
        for path in python_files()
        if "tests" not in path.relative_to(ROOT).parts
        for name in SETTING.findall(path.read_text())
    } - INTERNAL
    text = (ROOT / "docs" / "settings.md").read_text()
    documented = set(re.findall(r"\b(STOA_[A-Z_]+|DATABASE_URL|BROKER_URL)\b", text))
    assert code - documented == set()
    assert documented - code == set()


def test_links_between_documents_lead_somewhere() -> None:
    documents = [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("deploy/*.md")]
    broken = [
        f"{document.name}: {link}"
        for document in documents
        for link in LINK.findall(document.read_text())
        if "://" not in link and not (document.parent / Path(link)).exists()
    ]
    assert broken == []


def test_make_targets_that_documents_name_exist() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for document in [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("deploy/*.md")]:
        named = set(
            re.findall(r"^make ([a-z-]+)|`make ([a-z-]+)", document.read_text(), re.MULTILINE)
        )
        assert {first or second for first, second in named} <= targets, document.name
