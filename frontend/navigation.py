"""The console's pages in sections: a row of sections, and below it the pages of the one that is
open. Each is a link of its own, so that no script and no hover is needed."""

from dataclasses import dataclass

from controlplane.tenancy.access import Permission
from frontend.visits import Visit


@dataclass(frozen=True)
class Page:
    """`route`: its name in urls.py. `begins`: how the names of the pages below it begin, as far as
    they do not begin as its own."""

    label: str
    route: str
    begins: tuple[str, ...] = ()

    def holds(self, route: str) -> bool:
        return route == self.route or route.startswith(self.begins)


@dataclass(frozen=True)
class Section:
    label: str
    pages: tuple[Page, ...]
    operators: bool = False
    need: Permission | None = None

    def for_visit(self, visit: Visit) -> bool:
        if self.operators and not visit.principal.is_operator:
            return False
        return self.need is None or visit.can(self.need)


SECTIONS = (
    Section(
        "Serving",
        (
            Page("Endpoints", "endpoints", ("endpoint", "adapter")),
            Page("Aliases", "aliases", ("alias",)),
            Page("Batches", "batches", ("batch",)),
            Page("Runs", "runs", ("run",)),
        ),
    ),
    Section(
        "Models",
        (
            Page("Uploads", "uploads", ("upload",)),
            Page("On the nodes", "pulls", ("pull",)),
            Page("Quotes", "quotes", ("quote",)),
        ),
    ),
    Section(
        "Access",
        (
            Page("API keys", "keys", ("key",)),
            Page("Secrets", "secrets", ("secret",)),
            Page("Limits", "limits"),
            Page("Outbound network", "egress"),
        ),
    ),
    Section(
        "Money",
        (
            Page("Costs", "costs"),
            Page("Budgets", "budgets", ("budget",)),
            Page("Invoices", "billing", ("billing-invoice", "billing-file", "billing-act")),
            Page("Credit and payments", "billing-credit"),
            Page("Cards and accounts", "payment-methods", ("payment", "invoice-pay")),
            Page("Prices", "prices"),
            Page("Billing profile", "billing-profile"),
        ),
    ),
    Section(
        "Evidence",
        (
            Page("Evidence", "evidence", ("export",)),
            Page("Controls", "controls"),
            Page("Residency", "residency", ("residency",)),
            Page("Where it is sent", "subscriptions", ("subscription",)),
            Page("Personal data", "privacy", ("privacy",)),
            Page("Requests", "requests", ("request", "erasure")),
            Page("Keys", "data-keys", ("data-key",)),
        ),
        need=Permission.EXPORT,
    ),
    Section(
        "Fleet",
        (
            Page("Nodes", "nodes", ("node", "pool", "rollout")),
            Page("Engines", "engines", ("engine",)),
        ),
        operators=True,
    ),
    Section(
        "Books",
        (
            Page("Issuer and months", "billing-operator"),
            Page(
                "Bank",
                "billing-bank",
                ("billing-bank", "billing-collect", "billing-reopen", "billing-journal"),
            ),
            Page("Margin", "margin", ("margin",)),
        ),
        operators=True,
    ),
    Section(
        "Records",
        (
            Page("Operator's log", "operator-evidence"),
            Page("Operator's controls", "operator-controls"),
            Page("Where it is sent", "operator-subscriptions", ("operator-subscription",)),
            Page("Personal data", "operator-privacy"),
            Page("Keys", "operator-data-keys"),
        ),
        operators=True,
    ),
)


@dataclass(frozen=True)
class Here:
    """What a page shows of it; `section` and `page` are None on pages of no section."""

    sections: list[Section]
    section: Section | None
    page: Page | None


def here(visit: Visit, route: str) -> Here:
    shown = [section for section in SECTIONS if section.for_visit(visit)]
    found = ((section, one) for section in shown for one in section.pages if one.holds(route))
    section, page = next(found, (None, None))
    return Here(shown, section, page)
