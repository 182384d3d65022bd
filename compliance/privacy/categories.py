"""What kinds of data there are, and whose: what a record of processing calls them."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Category:
    """`subjects`: categories of persons whom the data is about; empty: nobody."""

    title: str
    subjects: tuple[str, ...]
    data: str


_USERS = "people who use the console of a tenant"
_STAFF = "the operator's staff"
_CONTACTS = "contacts of customers, and customers who are natural persons"

CATEGORIES: dict[str, Category] = {
    "people": Category(
        "People and their sign-ins", (_USERS, _STAFF), "e-mail address, role, time of sign-ins"
    ),
    "accounts": Category(
        "Customers and contracts", (_CONTACTS,), "names, addresses, VAT numbers, what was agreed"
    ),
    "access": Category(
        "Keys and secrets", (_USERS,), "names of keys, who made them, hashes, sealed secrets"
    ),
    "invoicing": Category(
        "Invoices and books", (_CONTACTS,), "invoices, lines, entries of the ledger"
    ),
    "payments": Category(
        "Payments and credit", (_CONTACTS,), "payers, IBANs, mandates, amounts, references"
    ),
    "usage": Category(
        "Usage",
        (_USERS, "people whose programs or agents call a tenant's endpoints"),
        "counts of tokens and seconds with times and pseudonyms of keys, agents and runs",
    ),
    "content": Category(
        "Files and batches",
        ("whomever a tenant's prompts, files and answers tell of",),
        "prompts and answers that a tenant asked to have kept, possibly of special categories",
    ),
    "models": Category(
        "Models that tenants bring",
        ("whomever a tenant's weights or adapters were trained on",),
        "weights, adapters, names of models and what is to be done with them",
    ),
    "operation": Category(
        "Endpoints in operation",
        (_USERS, "whomever lines tell of that a tenant's own program prints"),
        "specifications, who changed them, states, last lines of engines",
    ),
    "machines": Category("Machines", (_STAFF,), "nodes, their health, who worked on them"),
    "evidence": Category(
        "Audit log and exports",
        (_USERS, _STAFF),
        "who did what and when, by pseudonyms; names, words and addresses sealed apart",
    ),
    "catalogue": Category("Prices, engines and releases", (), "nothing of persons"),
}
