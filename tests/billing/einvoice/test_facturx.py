"""The page: PDF/A-3 in its structure, the XML inside byte for byte, and everything readable."""

import io
import re
from dataclasses import replace
from datetime import UTC, date, datetime
from typing import Any

import facturx as other_reader
import pypdfium2
import pytest
from fpdf.fonts import SubsetMap
from lxml import etree
from pypdf import PdfReader
from pypdf.generic import DictionaryObject

from billing.einvoice import cii, facturx, wording
from billing.einvoice.document import Invoice, Period
from compliance import sheet
from tests.billing.einvoice import samples

AT = datetime(2026, 12, 1, 3, 0, tzinfo=UTC)
MM = 72 / 25.4
XMP = {
    "rdf": "http://www.w3.org/1999/02/22-rdf-syntax-ns#",
    "dc": "http://purl.org/dc/elements/1.1/",
    "xmp": "http://ns.adobe.com/xap/1.0/",
    "pdfaid": "http://www.aiim.org/pdfa/ns/id/",
    "pdfaSchema": "http://www.aiim.org/pdfa/ns/schema#",
    "fx": "urn:factur-x:pdfa:CrossIndustryDocument:invoice:1p0#",
}


def long() -> Invoice:
    """Many pages: projects, endpoints, and names, words and notes longer than anybody's."""
    lines = []
    for number in range(1, 81):
        project = f"Project {number // 12}" if number % 40 else "Gießereiüberwachung " * 8
        endpoint = f"endpoint-{number // 7}"
        line = samples.hours(number, 86399 * number, "2.49", project=project, endpoint=endpoint)
        lines.append(line)
    told = replace(samples.egress(81), description="unbroken" * 200, name="Egress traffic " * 40)
    notes = ("A note of its own length. " * 400, "{nb}\tof Zu\u0308rich")
    return replace(samples.invoice(*lines, told), notes=notes)


def made(document: Invoice) -> tuple[bytes, bytes]:
    xml = cii.write(document)
    return facturx.render(document, xml, AT), xml


def pages(pdf: bytes) -> list[str]:
    """The text of each page, as a reader copies it out."""
    document = pypdfium2.PdfDocument(pdf)
    texts = []
    for page in document:
        text = page.get_textpage()
        texts.append(text.get_text_bounded().replace("\u00a0", " ").replace("\r\n", "\n"))
        text.close()
        page.close()
    document.close()
    return texts


@pytest.mark.parametrize("name", samples.ALL)
def test_the_xml_comes_out_byte_for_byte(name: str) -> None:
    pdf, xml = made(samples.ALL[name]())
    assert PdfReader(io.BytesIO(pdf)).attachments == {"factur-x.xml": [xml]}
    # A reader by other hands, which asks the schema too.
    assert other_reader.get_facturx_xml_from_pdf(pdf, check_xsd=True) == ("factur-x.xml", xml)


def test_the_same_document_gives_the_same_pdf() -> None:
    assert made(samples.two_rates()) == made(samples.two_rates())
    with pytest.raises(ValueError, match="aware"):
        facturx.render(samples.two_rates(), b"<x/>", datetime(2026, 12, 1))  # noqa: DTZ001


def test_no_document_leaves_anything_in_the_fonts_that_all_share() -> None:
    """Another with other letters in between changes nothing, and nothing of either is kept."""
    alone = facturx.render(samples.two_rates(), b"<x/>", AT)
    party = replace(samples.two_rates().customer, name="Łódź Żółć Αθήνα Ωμέγα")
    other = facturx.render(replace(samples.two_rates(), customer=party), b"<x/>", AT)
    assert facturx.render(samples.two_rates(), b"<x/>", AT) == alone != other
    assert SubsetMap.get_glyph.cache_info().currsize == 0
    assert SubsetMap.pick.cache_info().currsize == 0


def test_it_is_pdf_a_3_in_its_structure() -> None:
    """What ISO 19005-3 and Factur-X ask that can be seen without a validator."""
    pdf, xml = made(samples.reverse_charge())
    reader = PdfReader(io.BytesIO(pdf))
    root: Any = reader.trailer["/Root"]
    assert pdf.startswith(b"%PDF-1.7") and re.match(rb"%[\x80-\xff]{4}", pdf.split(b"\n")[1])
    assert "/Encrypt" not in reader.trailer and "/ID" in reader.trailer
    intent = root["/OutputIntents"][0]
    assert intent["/S"] == "/GTS_PDFA1" and len(intent["/DestOutputProfile"].get_data()) > 2000
    assert intent["/DestOutputProfile"]["/N"] == 3
    (file,) = root["/AF"]
    spec = file.get_object()
    assert spec["/AFRelationship"] == "/Alternative" and spec["/F"] == spec["/UF"] == "factur-x.xml"
    stream = spec["/EF"]["/F"]
    assert stream["/Subtype"] == "/text/xml" and stream["/Params"]["/ModDate"]
    assert stream.get_data() == xml
    assert root["/Lang"] == "en"
    for key in ("/AA", "/OpenAction", "/AcroForm", "/NeedsRendering"):
        assert "/JS" not in str(root.get(key, ""))


def test_every_glyph_is_embedded_with_its_letter() -> None:
    pdf, _ = made(samples.reverse_charge())
    fonts = 0
    for page in PdfReader(io.BytesIO(pdf)).pages:
        resources: Any = page["/Resources"]
        for font in resources["/Font"].values():
            outer = font.get_object()
            (inner,) = outer["/DescendantFonts"]
            descriptor = inner.get_object()["/FontDescriptor"]
            assert "/FontFile2" in descriptor and "/ToUnicode" in outer
            fonts += 1
        states = resources.get("/ExtGState", DictionaryObject()).values()
        assert all(state.get_object().get("/ca", 1) == 1 for state in states)
    assert fonts == 2
    text = pages(pdf)[0]
    assert "Żółw Łączność Spółka z o.o." in text and "ul. Świętokrzyska 3" in text


def test_metadata_says_what_the_file_is() -> None:
    document = replace(samples.two_rates(), supplier=replace(samples.SUPPLIER, name="A & B <GmbH>"))
    pdf, _ = made(document)
    reader = PdfReader(io.BytesIO(pdf))
    root: Any = reader.trailer["/Root"]
    xmp = etree.fromstring(root["/Metadata"].get_data())
    paths = {
        "part": "//pdfaid:part",
        "conformance": "//pdfaid:conformance",
        "title": "//dc:title/rdf:Alt/rdf:li",
        "author": "//dc:creator/rdf:Seq/rdf:li",
        "made": "//xmp:CreateDate",
        "file": "//fx:DocumentFileName",
        "level": "//fx:ConformanceLevel",
        "described": "//pdfaSchema:namespaceURI",
    }
    said = {name: str(xmp.xpath(f"string({path})", namespaces=XMP)) for name, path in paths.items()}
    assert (said["part"], said["conformance"]) == ("3", "B")
    assert (said["file"], said["level"]) == ("factur-x.xml", "EN 16931")
    assert said["title"] == "Invoice 2026-000117" and said["author"] == "A & B <GmbH>"
    assert said["described"] == XMP["fx"]  # PDF/A wants each foreign property described
    assert datetime.fromisoformat(said["made"]) == AT
    assert reader.metadata is None  # no second place that could say otherwise


def test_the_page_says_what_an_accountant_looks_for() -> None:
    pdf, _ = made(samples.two_rates())
    (text,) = pages(pdf)
    for words in (
        "Invoice",
        "2026-000117",
        "1 December 2026",
        "1 to 30 November 2026",
        "Müller & Söhne Maschinenbau GmbH",
        "Turbine vision · llama-70b-prod",
        "20 736 000 s",
        "5 760 h",
        "per 3 600 s (1 h)",
        "14 342.40",
        "23 h 59 min 59 s",
        "123 456 789",
        "per 1 000 000",
        "Egress traffic",
        "Traffic is not charged for",
        "VAT 19 % on 14 348.38",
        "17 153.82 EUR",
        "DE02 1203 0000 0000 2020 51",
        "RF18539007547034",
        "VAT ID DE129273398",
        "Page 1 of 1",
    ):
        assert words in text, words
    (text,) = pages(made(samples.reverse_charge())[0])
    assert "Reverse charge / Steuerschuldnerschaft" in text and "VATEX-EU-AE" in text
    (text,) = pages(made(samples.credit_note())[0])
    assert "Credit note" in text and "2026-000117 of 1 December 2026" in text
    assert "Amount credited" in text and "IBAN" not in text
    (text,) = pages(made(samples.prepaid())[0])
    assert "\u22121 000.00" in text and "1 133.43 EUR" in text
    (text,) = pages(made(samples.debited())[0])
    assert "mandate STOA-M-000042" in text and "BYLADEM1001" not in text
    (text,) = pages(made(samples.outside_scope())[0])
    assert "Not subject to VAT" in text


def test_pages_repeat_their_head_and_hold_every_line() -> None:
    document = long()
    pdf, _ = made(document)
    texts = pages(pdf)
    assert len(texts) > 3
    for number, text in enumerate(texts, 1):
        assert f"Page {number} of {len(texts)}" in text
    with_lines = [text for text in texts if "h100-serving" in text]
    assert all(text.count("Unit price EUR") == 1 for text in with_lines)
    everything = "\n".join(texts)
    for line in document.lines:
        assert (
            f"Line {line.id} ·" in everything
            and wording.number(line.amount).replace("\u00a0", " ") in everything
        )
    assert ", continued" in everything
    assert "{nb} of Zürich" in everything


def test_nothing_runs_over_the_margins_or_into_the_footer() -> None:
    document = pypdfium2.PdfDocument(made(long())[0])
    for page in document:
        width, height = page.get_size()
        text = page.get_textpage()
        floor = height - (297 - sheet.BOTTOM) * MM
        for index in range(text.count_chars()):
            left, bottom, right, top = text.get_charbox(index)
            if right - left < 0.1:
                continue  # a space
            assert left > sheet.LEFT * MM - 1 and right < width - sheet.RIGHT * MM + 2
            # Body above the floor, footer below its rule; nothing on the line between.
            assert bottom > floor - 1 or top < floor - 4 * MM + 1
        text.close()
        page.close()
    document.close()


def test_names_that_the_font_lacks() -> None:
    """A party's name must stand as it is; a user's name for an endpoint may lose a letter."""
    greek = replace(samples.POLISH, name="Ψηφιακή Λογιστική")
    assert greek.name in pages(made(replace(samples.reverse_charge(), customer=greek))[0])[0]
    japanese = replace(samples.POLISH, name="日本電算株式会社")
    with pytest.raises(sheet.Unsettable, match="日"):
        made(replace(samples.reverse_charge(), customer=japanese))
    line = samples.hours(1, 60, "1", endpoint="llama 🦙 prod")
    pdf, xml = made(samples.invoice(line))
    assert "llama ? prod" in pages(pdf)[0] and "🦙".encode() in xml


def test_wording() -> None:
    day = date(2026, 11, 30)
    assert wording.period(Period(day, day)) == "30 November 2026"
    assert wording.period(Period(date(2026, 10, 28), day)) == "28 October to 30 November 2026"
    assert wording.period(Period(date(2025, 12, 1), day)) == "1 December 2025 to 30 November 2026"
    assert wording.period(Period(date(2025, 11, 1), day)) == "1 November 2025 to 30 November 2026"
    assert wording.rate(samples.hours(1, 1, "1", "5.50").rate) == "5.5\u00a0%"
    assert wording.clock(samples.hours(1, -3661, "1")) == "\u22121\u00a0h 1\u00a0min 1\u00a0s"
    assert wording.country("GR") == "Greece" and wording.country("JP") == "JP"
