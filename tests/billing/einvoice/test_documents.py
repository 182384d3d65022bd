"""Every kind of document passes the schemas, EN 16931's Schematron and Germany's."""

import sys
from decimal import Decimal
from pathlib import Path

import pytest
from lxml import etree

from billing.einvoice import cii, rules, ubl, validate
from billing.einvoice.document import Party
from billing.einvoice.ubl import Profile
from tests.billing.einvoice import kosit, samples
from workers.agent import environment

EACH = pytest.mark.parametrize("name", samples.ALL)


@pytest.fixture(scope="session")
def germany() -> Path:
    found = kosit.locate(environment.default_cache())
    if found is None:
        pytest.skip("KoSIT's rules are not here: python tests/prepare.py")
    return found


def values(xml: bytes, *names: str) -> list[str]:
    """The texts of elements of that path of local names, wherever it begins."""
    path = "//" + "/".join(f"*[local-name()='{name}']" for name in names)
    found = etree.fromstring(xml).xpath(path)
    assert isinstance(found, list)
    return [str(node.text) for node in found if isinstance(node, etree._Element)]


@EACH
def test_every_document_is_complete_and_adds_up(name: str) -> None:
    rules.check(samples.ALL[name]())


@EACH
def test_cii_passes_schema_and_schematron(name: str) -> None:
    xml = cii.write(samples.ALL[name]())
    assert validate.syntax(xml) is validate.Syntax.CII
    assert validate.schema(xml) == []
    assert validate.schematron(xml) == []


@EACH
def test_xrechnung_passes_schema_schematron_and_kosit(name: str, germany: Path) -> None:
    xml = ubl.write(samples.ALL[name](), Profile.XRECHNUNG)
    assert validate.schema(xml) == []
    assert validate.schematron(xml) == []
    assert validate.schematron(xml, germany) == []


@EACH
def test_peppol_passes_schema_and_schematron(name: str) -> None:
    xml = ubl.write(samples.in_peppol(samples.ALL[name]()), Profile.PEPPOL)
    assert validate.schema(xml) == []
    assert validate.schematron(xml) == []


def test_the_official_rules_can_fail(germany: Path) -> None:
    """Or their silence above would say nothing."""
    xml = cii.write(samples.two_rates())
    assert validate.schema(xml.replace(b"ram:GrandTotalAmount", b"ram:GreatTotalAmount"))
    short = xml.replace(b"<ram:GrandTotalAmount>17153.82", b"<ram:GrandTotalAmount>17153.81")
    assert "BR-CO-15" in {finding.rule for finding in validate.schematron(short)}
    german = ubl.write(samples.two_rates())
    short = german.replace(b">17153.82</cbc:PayableAmount>", b">17153.81</cbc:PayableAmount>")
    assert "BR-CO-16" in {finding.rule for finding in validate.schematron(short)}
    nameless = german.replace(b"<cbc:BuyerReference>04011000-12345-03</cbc:BuyerReference>", b"")
    found = {finding.rule: finding.flag for finding in validate.schematron(nameless, germany)}
    assert found["BR-DE-15"] == "fatal"
    with pytest.raises(ValueError, match="root Order is no invoice"):
        validate.syntax(b"<Order/>")


def test_without_saxon_the_schematron_says_what_it_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "saxonche", None)
    with pytest.raises(validate.Unavailable, match="saxonche"):
        validate.schematron(cii.write(samples.two_rates()))


def test_no_price_per_second_is_ever_rounded() -> None:
    """8 devices for 30 days at 2.49 an hour: 14 342.40, not 14 349.31."""
    for xml in (cii.write(samples.two_rates()), ubl.write(samples.two_rates())):
        root = etree.fromstring(xml)
        found = root.xpath(
            "//*[contains(local-name(), 'BasisQuantity')]|//*[local-name()='BaseQuantity']"
        )
        assert isinstance(found, list)
        first = found[0]
        assert isinstance(first, etree._Element)
        assert (first.text, first.get("unitCode")) == ("3600", "SEC")
    xml = ubl.write(samples.two_rates())
    assert values(xml, "InvoicedQuantity") == ["20736000", "86399", "123456789", "0"]
    assert values(xml, "PriceAmount") == ["2.49", "0.249", "0.60", "0.00"]
    assert values(xml, "BaseQuantity") == ["3600", "3600", "1000000", "1"]
    assert values(xml, "InvoiceLine", "LineExtensionAmount") == [
        "14342.40",
        "5.98",
        "74.07",
        "0.00",
    ]


def test_traffic_is_a_line_of_zero() -> None:
    xml = cii.write(samples.two_rates())
    assert values(xml, "SpecifiedTradeProduct", "Name")[-1] == "Egress traffic"
    assert values(xml, "NetPriceProductTradePrice", "ChargeAmount")[-1] == "0.00"


def test_reverse_charge_says_so_twice() -> None:
    document = samples.reverse_charge()
    for xml, text, code in (
        (cii.write(document), "ExemptionReason", "ExemptionReasonCode"),
        (ubl.write(document), "TaxExemptionReason", "TaxExemptionReasonCode"),
    ):
        assert values(xml, text) == [samples.REASONS["AE"].text]
        assert values(xml, code) == ["VATEX-EU-AE"]
        assert samples.POLISH.vat_id.encode() in xml


def test_outside_the_scope_the_vat_number_stands_in_a_note() -> None:
    xml = cii.write(samples.outside_scope())
    assert values(xml, "SpecifiedTaxRegistration", "ID") == [samples.SUPPLIER.tax_number]
    said = values(xml, "IncludedNote", "Content")
    assert said == [f"Supplier's VAT identification number: {samples.SUPPLIER.vat_id}"]


def test_a_credit_note_names_what_it_corrects() -> None:
    document = samples.credit_note()
    for xml, number in (
        (cii.write(document), "IssuerAssignedID"),
        (ubl.write(document), "ID"),
    ):
        references = values(xml, "InvoiceReferencedDocument", number)
        references += values(xml, "InvoiceDocumentReference", number)
        assert references == ["2026-000117"]
        assert b"Platform fault on 14 November 2026" in xml
    assert etree.QName(etree.fromstring(ubl.write(document))).localname == "CreditNote"
    assert values(ubl.write(document), "CreditedQuantity") == ["5400", "0"]
    assert values(cii.write(document), "ExchangedDocument", "TypeCode") == ["381"]


def test_advances_are_deducted_and_named() -> None:
    document = samples.prepaid()
    assert values(cii.write(document), "TotalPrepaidAmount") == ["1000.00"]
    assert values(ubl.write(document), "PrepaidAmount") == ["1000.00"]
    named = ["2026-000090", "2026-000098"]
    assert values(cii.write(document), "InvoiceReferencedDocument", "IssuerAssignedID") == named
    assert values(ubl.write(document), "InvoiceDocumentReference", "ID") == named
    assert document.totals.due == Decimal("1133.43")


def test_what_germany_and_peppol_ask_on_top_is_named() -> None:
    bare = samples.invoice(samples.egress(1), customer=Party(name="Nobody"))
    for profile, field in (
        (Profile.XRECHNUNG, "customer.endpoint"),
        (Profile.PEPPOL, "customer.endpoint_scheme"),
    ):
        with pytest.raises(rules.Incomplete) as caught:
            ubl.write(bare, profile)
        assert field in {missing.field for missing in caught.value.fields}


def test_the_same_document_gives_the_same_bytes() -> None:
    for make in samples.ALL.values():
        assert cii.write(make()) == cii.write(make())
        assert ubl.write(make()) == ubl.write(make())
