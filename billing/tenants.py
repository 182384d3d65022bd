"""What billing asks of the rooms above it: names for documents, whose audit log it is, and who
certifies nodes.

Billing knows accounts and ids; who knows more registers here when it loads.
"""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

from compliance import audit

Named = Callable[[Collection[str]], Mapping[str, str]]  # what people call these, by id


@dataclass(frozen=True)
class Names:
    """What people call projects and endpoints, by id."""

    projects: Mapping[str, str]
    endpoints: Mapping[str, str]


@dataclass(frozen=True)
class Home:
    """The audit log and the region of an account's organization."""

    log: str
    region: str


Authorities = Callable[[], Mapping[str, str]]  # certificates in PEM, by region

_named: dict[str, Named] = {}
_homes: list[Callable[[str], Home | None]] = []
_certified: list[Authorities] = []


def name_projects(named: Named) -> None:
    _named["projects"] = named


def name_endpoints(named: Named) -> None:
    _named["endpoints"] = named


def house(home: Callable[[str], Home | None]) -> None:
    """`home` finds the organization of an account."""
    _homes[:] = [home]


def certify(authorities_: Authorities) -> None:
    """`authorities_` tells who certifies the keys of nodes."""
    _certified[:] = [authorities_]


def authorities() -> Mapping[str, str]:
    """The certificates of the regions' authorities, in PEM."""
    return _certified[0]() if _certified else {}


def names(projects: Collection[str], endpoints: Collection[str]) -> Names:
    """Of those that are known; deleted ones are."""
    return Names(_ask("projects", projects), _ask("endpoints", endpoints))


def home(account_id: str) -> Home:
    """Of an account without an organization: the platform's log."""
    found = _homes[0](account_id) if _homes else None
    return found or Home(audit.PLATFORM, "")


def _ask(kind: str, ids: Collection[str]) -> Mapping[str, str]:
    return _named[kind](ids) if ids and kind in _named else {}
