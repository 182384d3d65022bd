"""The documents agree with the code."""

import dataclasses
import re
from pathlib import Path

from gateway.config import Config
from gateway.limits import Limits
from tests.test_layout import ROOT, python_files

CONFIG = Config.from_env(
    {
        "STOA_GATEWAY_DATABASE_URL": "postgresql://",
        "STOA_KEY_PEPPER": "x",
        "STOA_GATEWAY_DIR": "x",
        "STOA_REGION": "eu-de-1",
    }
)

SETTING = re.compile(r'"(STOA_[A-Z_]+|DATABASE_URL|BROKER_URL)"')
# Marks that our own processes put on engines and on themselves, what containers are told, and what
# only the tests set.
INTERNAL = {
    *("STOA_AGENT", "STOA_AGENT_HOME", "STOA_AGENT_TRY"),
    "STOA_GATEWAY_STATE",
    "STOA_MODEL_DIR",
    "STOA_REPLICA",
    "STOA_TEST_SERVERS",
}
# The gateway's limits have one setting for each field, unless its Config names it.
LIMITS = {
    f"STOA_GATEWAY_{field.name.upper()}": field.default
    for field in dataclasses.fields(Limits)
    if field.name not in ("body_bytes", "hold_s", "drain_s")
}
LINK = re.compile(r"\]\(([^)#]+)\)")


def test_every_setting_is_documented_and_every_documented_one_exists() -> None:
    code = {
        name
        for path in python_files()
        if "tests" not in path.relative_to(ROOT).parts
        for name in SETTING.findall(path.read_text())
    } - INTERNAL | LIMITS.keys()
    text = (ROOT / "docs" / "settings.md").read_text()
    documented = set(re.findall(r"\b(STOA_[A-Z_]+|DATABASE_URL|BROKER_URL)\b", text))
    assert code - documented == set()
    assert documented - code == set()


def test_the_gateways_limits_are_documented_as_they_are() -> None:
    text = (ROOT / "docs" / "settings.md").read_text()
    rows = dict(re.findall(r"^\| (STOA_GATEWAY_\w+) \| ([0-9.]+) \|", text, re.MULTILINE))
    for name, default in LIMITS.items():
        assert float(rows[name]) == default, name
        value = type(default)(default + 1)
        given = Limits.of(CONFIG, {name: str(value)})
        assert getattr(given, name.removeprefix("STOA_GATEWAY_").lower()) == value


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
