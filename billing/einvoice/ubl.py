"""The document as UBL 2.1 Invoice or CreditNote: XRechnung 3.0, or Peppol BIS Billing 3.0."""

from enum import StrEnum

from lxml import etree
from lxml.etree import _Element as Element

from billing.einvoice import rules, terms
from billing.einvoice.document import Allowance, Category, Invoice, Line, Party, Period, VatGroup
from billing.einvoice.terms import plain

PROCESS = "urn:fdc:peppol.eu:2017:poacc:billing:01:1.0"
_NAMES = "urn:oasis:names:specification:ubl:schema:xsd:"
CAC = f"{_NAMES}CommonAggregateComponents-2"
CBC = f"{_NAMES}CommonBasicComponents-2"


class Profile(StrEnum):
    """What the receiver asks for, by its specification identifier (BT-24)."""

    XRECHNUNG = "urn:cen.eu:en16931:2017#compliant#urn:xeinkauf.de:kosit:xrechnung_3.0"
    PEPPOL = "urn:cen.eu:en16931:2017#compliant#urn:fdc:peppol.eu:2017:poacc:billing:3.0"


def write(document: Invoice, profile: Profile = Profile.XRECHNUNG) -> bytes:
    """UTF-8 XML. Raises Incomplete for what the profile asks on top of a complete document."""
    german = profile is Profile.XRECHNUNG
    lacking = rules.missing_for_xrechnung if german else rules.missing_for_peppol
    if absent := lacking(document):
        raise rules.Incomplete(absent, [])
    credit = document.kind == "credit_note"
    name = "CreditNote" if credit else "Invoice"
    namespace = f"{_NAMES}{name}-2"
    root = etree.Element(f"{{{namespace}}}{name}", nsmap={None: namespace, "cac": CAC, "cbc": CBC})
    _head(root, document, profile)
    _references(root, document)
    _party(_group(root, "AccountingSupplierParty"), document, document.supplier)
    _party(_group(root, "AccountingCustomerParty"), document, document.customer)
    _delivery(root, document)
    _payment(root, document)
    for allowance in document.allowances:
        _allowance(root, document, allowance)
    _tax(root, document, profile)
    _totals(root, document)
    for line in document.lines:
        _line(root, document, line)
    return etree.tostring(root, pretty_print=True, xml_declaration=True, encoding="UTF-8")


def _group(parent: Element, name: str) -> Element:
    return etree.SubElement(parent, f"{{{CAC}}}{name}")


def _text(parent: Element, name: str, value: object, **attributes: str) -> None:
    """One field; left out where there is nothing to say."""
    if value not in ("", None):
        etree.SubElement(parent, f"{{{CBC}}}{name}", attributes).text = str(value)


def _head(root: Element, document: Invoice, profile: Profile) -> None:
    credit = document.kind == "credit_note"
    _text(root, "CustomizationID", profile.value)
    _text(root, "ProfileID", PROCESS)
    _text(root, "ID", document.number)
    _text(root, "IssueDate", document.issued)
    if credit:
        _text(root, "CreditNoteTypeCode", terms.type_code(document))
    else:
        _text(root, "DueDate", document.due)
        _text(root, "InvoiceTypeCode", terms.type_code(document))
    # Peppol lets a document have one note.
    _text(root, "Note", "\n".join(terms.notes(document)))
    _text(root, "DocumentCurrencyCode", document.currency)
    if document.national_vat:
        _text(root, "TaxCurrencyCode", document.national_vat.currency)
    _text(root, "BuyerReference", document.buyer_reference)
    _period(root, document.period)


def _period(parent: Element, period: Period | None) -> None:
    if period:
        node = _group(parent, "InvoicePeriod")
        _text(node, "StartDate", period.start)
        _text(node, "EndDate", period.end)


def _references(root: Element, document: Invoice) -> None:
    if document.order_reference:
        _text(_group(root, "OrderReference"), "ID", document.order_reference)
    for earlier in document.preceding:
        node = _group(_group(root, "BillingReference"), "InvoiceDocumentReference")
        _text(node, "ID", earlier.number)
        _text(node, "IssueDate", earlier.issued)
    if document.contract_reference:
        _text(_group(root, "ContractDocumentReference"), "ID", document.contract_reference)


def _party(parent: Element, document: Invoice, party: Party) -> None:
    node = _group(parent, "Party")
    supplier = party is document.supplier
    _text(node, "EndpointID", party.endpoint, schemeID=party.endpoint_scheme)
    if supplier and document.payment.mandate:
        creditor = _group(node, "PartyIdentification")
        _text(creditor, "ID", document.payment.creditor_id, schemeID="SEPA")
    where = _group(node, "PostalAddress")
    _text(where, "StreetName", party.address.street)
    _text(where, "AdditionalStreetName", party.address.extra)
    _text(where, "CityName", party.address.city)
    _text(where, "PostalZone", party.address.postcode)
    _text(_group(where, "Country"), "IdentificationCode", party.address.country)
    numbers = [("VAT", terms.vat_id(document, party))]
    if supplier:
        numbers.append(("FC", party.tax_number))
    for scheme, number in numbers:
        if number:
            tax = _group(node, "PartyTaxScheme")
            _text(tax, "CompanyID", number)
            _text(_group(tax, "TaxScheme"), "ID", scheme)
    legal = _group(node, "PartyLegalEntity")
    _text(legal, "RegistrationName", party.name)
    _text(legal, "CompanyID", party.registration)
    if party.contact or party.phone or party.email:
        contact = _group(node, "Contact")
        _text(contact, "Name", party.contact)
        _text(contact, "Telephone", party.phone)
        _text(contact, "ElectronicMail", party.email)


def _delivery(root: Element, document: Invoice) -> None:
    if document.period:
        _text(_group(root, "Delivery"), "ActualDeliveryDate", document.period.end)


def _payment(root: Element, document: Invoice) -> None:
    payment = document.payment
    means = _group(root, "PaymentMeans")
    _text(means, "PaymentMeansCode", terms.means_code(document))
    if document.kind == "credit_note":
        _text(means, "PaymentDueDate", document.due)
    _text(means, "PaymentID", payment.reference)
    if payment.mandate:
        mandate = _group(means, "PaymentMandate")
        _text(mandate, "ID", payment.mandate)
        if payment.debtor_iban:
            _text(_group(mandate, "PayerFinancialAccount"), "ID", payment.debtor_iban)
    elif payment.iban:
        account = _group(means, "PayeeFinancialAccount")
        _text(account, "ID", payment.iban)
        _text(account, "Name", payment.account_name)
        if payment.bic:
            _text(_group(account, "FinancialInstitutionBranch"), "ID", payment.bic)
    if payment.terms:
        _text(_group(root, "PaymentTerms"), "Note", payment.terms)


def _category(parent: Element, name: str, category: Category, rate: object) -> Element:
    node = _group(parent, name)
    _text(node, "ID", category)
    if category != "O":
        _text(node, "Percent", rate)
    return node


def _scheme(node: Element) -> None:
    _text(_group(node, "TaxScheme"), "ID", "VAT")


def _allowance(root: Element, document: Invoice, allowance: Allowance) -> None:
    node = _group(root, "AllowanceCharge")
    _text(node, "ChargeIndicator", "false")
    _text(node, "AllowanceChargeReasonCode", allowance.code)
    _text(node, "AllowanceChargeReason", allowance.reason)
    _text(node, "Amount", plain(allowance.amount), currencyID=document.currency)
    _scheme(_category(node, "TaxCategory", allowance.category, plain(allowance.rate)))


def _tax(root: Element, document: Invoice, profile: Profile) -> None:
    total, currency = _group(root, "TaxTotal"), document.currency
    _text(total, "TaxAmount", plain(document.totals.vat), currencyID=currency)
    for group in document.vat:
        _subtotal(total, group, currency, profile)
    if national := document.national_vat:
        other = _group(root, "TaxTotal")
        _text(other, "TaxAmount", plain(national.vat), currencyID=national.currency)


def _subtotal(total: Element, group: VatGroup, currency: str, profile: Profile) -> None:
    node = _group(total, "TaxSubtotal")
    _text(node, "TaxableAmount", plain(group.taxable), currencyID=currency)
    _text(node, "TaxAmount", plain(group.tax), currencyID=currency)
    category = _category(node, "TaxCategory", group.category, plain(group.rate))
    if group.category == "O" and profile is Profile.XRECHNUNG:
        _text(category, "Percent", plain(group.rate))  # BR-DE-14 wants it here, though not in lines
    _text(category, "TaxExemptionReasonCode", group.code)
    _text(category, "TaxExemptionReason", group.reason)
    _scheme(category)


def _totals(root: Element, document: Invoice) -> None:
    totals, node = document.totals, _group(root, "LegalMonetaryTotal")
    fields = {
        "LineExtensionAmount": totals.lines,
        "TaxExclusiveAmount": totals.net,
        "TaxInclusiveAmount": totals.gross,
        "AllowanceTotalAmount": totals.allowances if document.allowances else None,
        "PrepaidAmount": totals.prepaid or None,
        "PayableAmount": totals.due,
    }
    for name, value in fields.items():
        if value is not None:
            _text(node, name, plain(value), currencyID=document.currency)


def _line(root: Element, document: Invoice, line: Line) -> None:
    credit = document.kind == "credit_note"
    node = _group(root, "CreditNoteLine" if credit else "InvoiceLine")
    _text(node, "ID", line.id)
    counted = "CreditedQuantity" if credit else "InvoicedQuantity"
    _text(node, counted, line.quantity, unitCode=line.unit)
    _text(node, "LineExtensionAmount", plain(line.amount), currencyID=document.currency)
    _period(node, line.period)
    item = _group(node, "Item")
    _text(item, "Description", line.description)
    _text(item, "Name", line.name)
    if line.sku:
        _text(_group(item, "SellersItemIdentification"), "ID", line.sku)
    _scheme(_category(item, "ClassifiedTaxCategory", line.category, plain(line.rate)))
    for name, value in terms.attributes(line):
        attribute = _group(item, "AdditionalItemProperty")
        _text(attribute, "Name", name)
        _text(attribute, "Value", value)
    price = _group(node, "Price")
    _text(price, "PriceAmount", plain(line.price), currencyID=document.currency)
    _text(price, "BaseQuantity", line.base_quantity, unitCode=line.unit)
