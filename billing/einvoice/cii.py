"""The document as UN/CEFACT Cross Industry Invoice, in Factur-X's profile EN 16931."""

from typing import Any

from drafthorse.models.accounting import ApplicableTradeTax, CategoryTradeTax, TradeAllowanceCharge
from drafthorse.models.document import Document
from drafthorse.models.note import IncludedNote
from drafthorse.models.party import TaxRegistration
from drafthorse.models.payment import PaymentMeans, PaymentTerms
from drafthorse.models.product import ProductCharacteristic
from drafthorse.models.tradelines import LineItem
from lxml import etree

from billing.einvoice import terms
from billing.einvoice.document import Allowance, Invoice, Line, Party, Period, Preceding, VatGroup
from billing.einvoice.terms import plain

PROFILE = "urn:cen.eu:en16931:2017"
RAM = "urn:un:unece:uncefact:data:standard:ReusableAggregateBusinessInformationEntity:100"
QDT = "urn:un:unece:uncefact:data:standard:QualifiedDataType:100"


def write(document: Invoice) -> bytes:
    """UTF-8 XML. The document must be complete (`rules.check`)."""
    doc = Document()
    doc.context.guideline_parameter.id = PROFILE
    doc.header.id = document.number
    doc.header.type_code = terms.type_code(document)
    doc.header.issue_date_time = document.issued
    for text in terms.notes(document):
        note = IncludedNote()
        note.content = text
        doc.header.notes.add(note)
    for line in document.lines:
        doc.trade.items.add(_line(line))
    _agreement(doc.trade.agreement, document)
    if document.period:
        doc.trade.delivery.event.occurrence = document.period.end
    _settlement(doc.trade.settlement, document)
    return _finish(doc.serialize(schema=None), document.preceding)


def _agreement(agreement: Any, document: Invoice) -> None:
    if document.buyer_reference:
        agreement.buyer_reference = document.buyer_reference
    _party(agreement.seller, document, document.supplier)
    _party(agreement.buyer, document, document.customer)
    if document.supplier.tax_number:
        agreement.seller.tax_registrations.add(_registration("FC", document.supplier.tax_number))
    if document.order_reference:
        agreement.buyer_order.issuer_assigned_id = document.order_reference
    if document.contract_reference:
        agreement.contract.issuer_assigned_id = document.contract_reference


def _party(node: Any, document: Invoice, party: Party) -> None:
    node.name = party.name
    if party.registration:
        node.legal_organization.id = ("", party.registration)
    if party.contact:
        node.contact.person_name = party.contact
    if party.phone:
        node.contact.telephone.number = party.phone
    if party.email:
        node.contact.email.address = party.email
    where = party.address
    fields = {
        "postcode": where.postcode,
        "line_one": where.street,
        "line_two": where.extra,
        "city_name": where.city,
        "country_id": where.country,
    }
    for field, value in fields.items():
        if value:
            setattr(node.address, field, value)
    if party.endpoint:
        node.electronic_address.uri_ID = (party.endpoint_scheme, party.endpoint)
    if number := terms.vat_id(document, party):
        node.tax_registrations.add(_registration("VA", number))


def _registration(scheme: str, number: str) -> Any:
    registration = TaxRegistration()
    registration.id = (scheme, number)
    return registration


def _line(line: Line) -> Any:
    item = LineItem()
    item.document.line_id = line.id
    item.product.name = line.name
    if line.sku:
        item.product.seller_assigned_id = line.sku
    if line.description:
        item.product.description = line.description
    for name, value in terms.attributes(line):
        characteristic = ProductCharacteristic()
        characteristic.description, characteristic.value = name, value
        item.product.characteristics.add(characteristic)
    item.agreement.net.amount = plain(line.price)
    item.agreement.net.basis_quantity = (str(line.base_quantity), line.unit)
    item.delivery.billed_quantity = (str(line.quantity), line.unit)
    item.settlement.trade_tax.type_code = "VAT"
    item.settlement.trade_tax.category_code = line.category
    if line.category != "O":
        item.settlement.trade_tax.rate_applicable_percent = plain(line.rate)
    _period(item.settlement.period, line.period)
    item.settlement.monetary_summation.total_amount = plain(line.amount)
    return item


def _period(node: Any, period: Period | None) -> None:
    if period:
        node.start, node.end = period.start, period.end


def _settlement(settlement: Any, document: Invoice) -> None:
    payment = document.payment
    if payment.creditor_id:
        settlement.creditor_reference_id = payment.creditor_id
    if payment.reference:
        settlement.payment_reference = payment.reference
    settlement.currency_code = document.currency
    settlement.payment_means.add(_means(document))
    for group in document.vat:
        settlement.trade_tax.add(_group(group))
    _period(settlement.period, document.period)
    for allowance in document.allowances:
        settlement.allowance_charge.add(_allowance(allowance))
    if document.due or payment.terms or payment.mandate:
        settlement.terms.add(_terms(document))
    _totals(settlement.monetary_summation, document)
    if national := document.national_vat:
        settlement.tax_currency_code = national.currency
        added = (plain(national.vat), national.currency)
        settlement.monetary_summation.tax_total_other_currency.add(added)


def _means(document: Invoice) -> Any:
    payment, means = document.payment, PaymentMeans()
    means.type_code = terms.means_code(document)
    if payment.mandate:
        if payment.debtor_iban:
            means.payer_account.iban = payment.debtor_iban
    elif payment.iban:
        means.payee_account.iban = payment.iban
        if payment.account_name:
            means.payee_account.account_name = payment.account_name
        if payment.bic:
            means.payee_institution.bic = payment.bic
    return means


def _terms(document: Invoice) -> Any:
    node = PaymentTerms()
    if document.payment.terms:
        node.description = document.payment.terms
    if document.due:
        node.due = document.due
    if document.payment.mandate:
        node.debit_mandate_id = document.payment.mandate
    return node


def _group(group: VatGroup) -> Any:
    tax = ApplicableTradeTax()
    tax.calculated_amount = plain(group.tax)
    tax.type_code = "VAT"
    if group.reason:
        tax.exemption_reason = group.reason
    tax.basis_amount = plain(group.taxable)
    tax.category_code = group.category
    if group.code:
        tax.exemption_reason_code = group.code
    if group.category != "O":
        tax.rate_applicable_percent = plain(group.rate)
    return tax


def _allowance(allowance: Allowance) -> Any:
    node = TradeAllowanceCharge()
    node.indicator = False
    node.actual_amount = plain(allowance.amount)
    node.reason_code = allowance.code
    node.reason = allowance.reason
    tax = CategoryTradeTax()
    tax.type_code = "VAT"
    tax.category_code = allowance.category
    if allowance.category != "O":
        tax.rate_applicable_percent = plain(allowance.rate)
    node.trade_tax.add(tax)
    return node


def _totals(node: Any, document: Invoice) -> None:
    totals = document.totals
    node.line_total = plain(totals.lines)
    if document.allowances:
        node.allowance_total = plain(totals.allowances)
    node.tax_basis_total = (plain(totals.net), None)
    node.tax_total = (plain(totals.vat), document.currency)
    node.grand_total = (plain(totals.gross), None)
    if totals.prepaid:
        node.prepaid_total = plain(totals.prepaid)
    node.due_amount = plain(totals.due)


def _finish(xml: bytes, preceding: tuple[Preceding, ...]) -> bytes:
    """The preceding invoices (drafthorse knows only one), and indentation."""
    root = etree.fromstring(xml, etree.XMLParser(remove_blank_text=True, resolve_entities=False))
    summation = next(root.iter(f"{{{RAM}}}SpecifiedTradeSettlementHeaderMonetarySummation"))
    for earlier in reversed(preceding):
        node = etree.Element(f"{{{RAM}}}InvoiceReferencedDocument")
        etree.SubElement(node, f"{{{RAM}}}IssuerAssignedID").text = earlier.number
        moment = etree.SubElement(node, f"{{{RAM}}}FormattedIssueDateTime")
        text = etree.SubElement(moment, f"{{{QDT}}}DateTimeString", format="102")
        text.text = earlier.issued.strftime("%Y%m%d")
        summation.addnext(node)
    return etree.tostring(root, pretty_print=True, xml_declaration=True, encoding="UTF-8")
