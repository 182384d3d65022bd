"""Whom a record or a key is about: the words that every room uses for that."""

from __future__ import annotations

from dataclasses import dataclass

PERSON = "person"
ORGANIZATION = "organization"
#: How the id of each kind begins.
PREFIXES = {PERSON: "usr_", ORGANIZATION: "org_"}


@dataclass(frozen=True)
class Subject:
    """A person (id usr_…) or an organization (id org_…); by id alone, never by name."""

    kind: str
    id: str

    def __str__(self) -> str:
        return f"{self.kind}:{self.id}"
