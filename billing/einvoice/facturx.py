"""The page with the XML inside: Factur-X / ZUGFeRD, PDF/A-3B."""

from datetime import datetime
from xml.sax.saxutils import escape

from billing.einvoice import pdf
from billing.einvoice.document import Invoice

FILE = "factur-x.xml"
MAKER = "Stoa"
_FX = "urn:factur-x:pdfa:CrossIndustryDocument:invoice:1p0#"
# PDF/A takes properties beyond its own only where they are described (ISO 19005-3, 6.6.2.3).
_PROPERTIES = {
    "DocumentFileName": "The name of the embedded XML document",
    "DocumentType": "The type of the hybrid document in capital letters, e.g. INVOICE or ORDER",
    "Version": "The version of the standard that applies to the embedded XML document",
    "ConformanceLevel": "The conformance level of the embedded XML document",
}


def render(document: Invoice, xml: bytes, at: datetime) -> bytes:
    """The PDF with `xml` (`cii.write`) in it, byte for byte, dated `at` (aware).

    The same arguments give the same bytes. Raises sheet.Unsettable for a party's name that the
    font cannot set.
    """
    if at.tzinfo is None:
        raise ValueError("a document is dated by an aware time")
    name = f"{pdf.title(document)} {document.number}"
    sheet = pdf.draw(document)
    sheet.set_lang("en")
    sheet.set_creation_date(at)
    sheet.set_xmp_metadata(_metadata(document, name, at))
    sheet.embed_file(
        bytes=xml,
        basename=FILE,
        desc="The invoice as structured data (EN 16931)",
        mime_type="text/xml",
        # The page and the XML say the same: either may be booked.
        associated_file_relationship="Alternative",
        modification_date=at,
        compress=True,
        checksum=True,
    )
    try:
        return bytes(sheet.output())
    finally:
        sheet.close()


def _metadata(document: Invoice, name: str, at: datetime) -> str:
    moment, supplier = at.isoformat(timespec="seconds"), escape(document.supplier.name)
    name = escape(name)
    described = "".join(
        f"""<rdf:li rdf:parseType="Resource">
<pdfaProperty:name>{field}</pdfaProperty:name>
<pdfaProperty:valueType>Text</pdfaProperty:valueType>
<pdfaProperty:category>external</pdfaProperty:category>
<pdfaProperty:description>{text}</pdfaProperty:description>
</rdf:li>"""
        for field, text in _PROPERTIES.items()
    )
    return f"""<x:xmpmeta xmlns:x="adobe:ns:meta/">
<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">
<rdf:Description rdf:about="" xmlns:pdfaid="http://www.aiim.org/pdfa/ns/id/">
<pdfaid:part>3</pdfaid:part>
<pdfaid:conformance>B</pdfaid:conformance>
</rdf:Description>
<rdf:Description rdf:about="" xmlns:dc="http://purl.org/dc/elements/1.1/">
<dc:title><rdf:Alt><rdf:li xml:lang="x-default">{name}</rdf:li></rdf:Alt></dc:title>
<dc:creator><rdf:Seq><rdf:li>{supplier}</rdf:li></rdf:Seq></dc:creator>
<dc:description><rdf:Alt><rdf:li xml:lang="x-default">{name}, {supplier}</rdf:li></rdf:Alt>
</dc:description>
</rdf:Description>
<rdf:Description rdf:about="" xmlns:pdf="http://ns.adobe.com/pdf/1.3/">
<pdf:Producer>{MAKER}</pdf:Producer>
</rdf:Description>
<rdf:Description rdf:about="" xmlns:xmp="http://ns.adobe.com/xap/1.0/">
<xmp:CreatorTool>{MAKER}</xmp:CreatorTool>
<xmp:CreateDate>{moment}</xmp:CreateDate>
<xmp:ModifyDate>{moment}</xmp:ModifyDate>
</rdf:Description>
<rdf:Description rdf:about="" xmlns:pdfaExtension="http://www.aiim.org/pdfa/ns/extension/"
 xmlns:pdfaSchema="http://www.aiim.org/pdfa/ns/schema#"
 xmlns:pdfaProperty="http://www.aiim.org/pdfa/ns/property#">
<pdfaExtension:schemas><rdf:Bag><rdf:li rdf:parseType="Resource">
<pdfaSchema:schema>Factur-X PDFA Extension Schema</pdfaSchema:schema>
<pdfaSchema:namespaceURI>{_FX}</pdfaSchema:namespaceURI>
<pdfaSchema:prefix>fx</pdfaSchema:prefix>
<pdfaSchema:property><rdf:Seq>{described}</rdf:Seq></pdfaSchema:property>
</rdf:li></rdf:Bag></pdfaExtension:schemas>
</rdf:Description>
<rdf:Description rdf:about="" xmlns:fx="{_FX}">
<fx:DocumentType>INVOICE</fx:DocumentType>
<fx:DocumentFileName>{FILE}</fx:DocumentFileName>
<fx:Version>1.0</fx:Version>
<fx:ConformanceLevel>EN 16931</fx:ConformanceLevel>
</rdf:Description>
</rdf:RDF>
</x:xmpmeta>"""
