"""What we do not claim: software supports evidence for somebody's judgement and makes none.

No page, document, export or program of ours says that something is compliant, certified,
immutable, anonymous or guaranteed: those are an auditor's, an authority's or nobody's to say.
"""

import re
import zipfile
from pathlib import Path

import pypdfium2

from compliance.bundles import stoa_verify
from tests.compliance.bundles.making import MemoryLog, bodies, check, make
from tests.test_layout import ROOT

CLAIM = re.compile(
    r"\b(compliant|certified|immutabl[ey]|anonymous(ly)?|anonymi[sz]ed|guaranteed|tamper-?proof)\b",
    re.IGNORECASE,
)
ROOMS = ("platform", "billing", "workers", "compliance", "frontend", "docs", "deploy")
KINDS = {".py", ".html", ".md", ".txt", ".sql", ".js", ".toml", ".yml", ".yaml", ".json"}
# Where somebody else's word is a name: each with the reason.
EXCEPTIONS = {
    ("billing/einvoice/ubl.py", "compliant"): "EN 16931 has it in the names of its profiles",
    ("billing/vat/data/issuers.json", "certified"): "Portugal's law on billing software says so",
}


def claims(text: str) -> set[str]:
    return {match[0].lower() for match in CLAIM.finditer(text)}


def test_nothing_of_ours_claims_what_it_cannot_show() -> None:
    found = set()
    looked = 0
    paths = [path for room in ROOMS for path in (ROOT / room).rglob("*")]
    for path in [*paths, *ROOT.glob("*.md")]:
        # Migrations are history that nobody is shown.
        if path.suffix not in KINDS or "migrations" in path.parts:
            continue
        looked += 1
        name = str(path.relative_to(ROOT))
        found |= {(name, claim) for claim in claims(path.read_text(errors="replace"))}
    assert looked > 500
    assert found == set(EXCEPTIONS)


def test_no_export_claims_it_either(tmp_path: Path) -> None:
    """README and page of a bundle that was made, and the verifier's report."""
    made = make(tmp_path / "bundle.zip", MemoryLog(bodies(9)))
    with zipfile.ZipFile(made) as bundle:
        readme, manifest = (bundle.read(name).decode() for name in ("README.md", "manifest.json"))
        document = pypdfium2.PdfDocument(bundle.read("summary.pdf"))
    pages = [page.get_textpage().get_text_range() for page in document]
    document.close()
    for text in (readme, manifest, *pages, stoa_verify.shown(check(made), made, False)):
        assert claims(text) == set()
        assert "supports evidence" in " ".join(text.split())


def test_the_words_are_found() -> None:
    for text in ("is Compliant", "immutable.", "Certified by", "anonymised", "guaranteed"):
        assert claims(text)
    assert not claims("It supports evidence for audits; it certifies nothing.")
