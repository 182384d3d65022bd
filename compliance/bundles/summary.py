"""summary.pdf: a bundle on a page for people. PDF/A; the same arguments give the same bytes."""

from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any
from xml.sax.saxutils import escape

from compliance.bundles import readme, stoa_verify
from compliance.sheet import GREY, LEFT, WIDTH, Column, Sheet, Table, Text
from compliance.stamps import stamp

if TYPE_CHECKING:
    from compliance.bundles.writer import Head

_NAMES = 38.0


def render(
    head: "Head",
    files: Sequence[tuple[str, int]],
    log_proof: dict[str, Any] | None,
    facts: Sequence[tuple[str, str]],
) -> bytes:
    """`files`: path and rows of the parts that have rows."""
    # The footer marks each page with whom it was made for.
    footer = [f"Made for {head.requested_by} at {stamp(head.created_at)}", f"Bundle {head.id}"]
    sheet = Sheet(footer, f"Evidence: {head.kind.replace('_', ' ')}")
    try:
        sheet.set_lang("en")
        sheet.set_creation_date(head.created_at)
        sheet.set_title(f"Evidence bundle {head.id}")
        sheet.set_xmp_metadata(metadata(f"Evidence bundle {head.id}", head.created_at))
        title(sheet, "Evidence bundle", 16)
        _pairs(sheet, [*_head(head), *facts])
        if log_proof:
            title(sheet, "The log and its checkpoint", 11)
            _pairs(sheet, _log(log_proof))
        title(sheet, "Records", 11)
        _records(sheet, files)
        title(sheet, "How to check it", 11)
        _pairs(sheet, _check(head))
        title(sheet, "What a good check shows, and what it does not", 11)
        proved = stoa_verify.PROVED if log_proof else stoa_verify.PROVED[:1]
        for words in proved:
            sheet.flow(Text(f"It supports evidence that {words}."))
        for words in stoa_verify.NOT_PROVED:
            sheet.flow(Text(f"It does not show {words}."))
        return bytes(sheet.output())
    finally:
        sheet.close()


def metadata(title: str, made: datetime) -> str:
    """XMP of our own, since fpdf2's names the time at which it writes."""
    at = made.isoformat(timespec="seconds")
    title = escape(title)
    return f"""<x:xmpmeta xmlns:x="adobe:ns:meta/">
<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">
<rdf:Description rdf:about="" xmlns:pdfaid="http://www.aiim.org/pdfa/ns/id/">
<pdfaid:part>3</pdfaid:part>
<pdfaid:conformance>B</pdfaid:conformance>
</rdf:Description>
<rdf:Description rdf:about="" xmlns:dc="http://purl.org/dc/elements/1.1/">
<dc:title><rdf:Alt><rdf:li xml:lang="x-default">{title}</rdf:li></rdf:Alt></dc:title>
</rdf:Description>
<rdf:Description rdf:about="" xmlns:xmp="http://ns.adobe.com/xap/1.0/">
<xmp:CreateDate>{at}</xmp:CreateDate>
<xmp:ModifyDate>{at}</xmp:ModifyDate>
</rdf:Description>
</rdf:RDF>
</x:xmpmeta>"""


def _head(head: "Head") -> list[tuple[str, str]]:
    said = [("Kind", head.kind.replace("_", " ")), ("Bundle", head.id), ("Log", head.log)]
    if head.about:
        said.append(("About", head.about))
    if head.period:
        start, end = map(stamp, head.period)
        said.append(("Period", f"from {start}\nto before {end}"))
    return [*said, ("Profile", head.profile), ("Asked for by", head.requested_by)]


def _log(proof: dict[str, Any]) -> list[tuple[str, str]]:
    first, count = proof["first"], proof["count"]
    span = f"{first} to {first + count - 1} ({count})" if count else "none"
    size, root = f"{proof['size']} events", proof["root"]
    return [("Origin", proof["origin"]), ("Size", size), ("Root", root), ("Events here", span)]


def _check(head: "Head") -> list[tuple[str, str]]:
    command = f"python3 stoa_verify.py {head.id}.zip --vkey KEY"
    return [
        ("Command", command),
        ("Key, to be compared", head.vkey),
        ("SHA-256 of the verifier", readme.verifier_sha256()),
    ]


def title(sheet: Sheet, words: str, size: float) -> None:
    sheet.need(20)
    sheet.set_y(sheet.get_y() + 3.5)
    sheet.put(Text(words, size, "B"), LEFT, WIDTH)
    sheet.set_y(sheet.get_y() + 1.5)


def _pairs(sheet: Sheet, pairs: Sequence[tuple[str, str]]) -> None:
    for name, value in pairs:
        text = Text(value)
        sheet.need(sheet.height(text, WIDTH - _NAMES) + 1)
        y = sheet.get_y()
        sheet.put(Text(name, grey=GREY), LEFT, _NAMES)
        sheet.set_y(y)
        sheet.put(text, LEFT + _NAMES, WIDTH - _NAMES)


def _records(sheet: Sheet, files: Sequence[tuple[str, int]]) -> None:
    table = Table(sheet, (Column("File", WIDTH - 30), Column("Rows", 30, "R")))
    table.head()
    for path, rows in files:
        table.row([[Text(path)], [Text(f"{rows}")]])
