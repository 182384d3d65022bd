"""Strangers' XML: no DTD, no entity, no huge file, one namespace."""

from collections.abc import Iterator
from typing import Any
from xml.etree.ElementTree import Element, ParseError

from defusedxml.common import DefusedXmlException
from defusedxml.ElementTree import fromstring

from billing.sepa.statements import StatementRefused

MOST_BYTES = 64 * 1024 * 1024


class Node:
    """An element, asked by paths without namespaces: `node.text("Acct/Id/IBAN")`."""

    def __init__(self, element: "Element[Any]", namespace: str) -> None:
        self._element, self._namespace = element, namespace

    def _path(self, path: str) -> str:
        return "/".join(f"{{{self._namespace}}}{step}" for step in path.split("/"))

    def first(self, path: str) -> "Node | None":
        found = self._element.find(self._path(path))
        return None if found is None else Node(found, self._namespace)

    def all(self, path: str) -> "Iterator[Node]":
        return (Node(each, self._namespace) for each in self._element.iterfind(self._path(path)))

    def text(self, *paths: str) -> str:
        """The text under the first of the paths that has any; "" when none has."""
        for path in paths:
            found = (self._element.findtext(self._path(path)) or "").strip()
            if found:
                return found
        return ""

    @property
    def own_text(self) -> str:
        return (self._element.text or "").strip()

    def attribute(self, name: str) -> str:
        return self._element.get(name, "")


def parse(data: bytes) -> tuple[str, Node]:
    """The namespace and the root, which must be `Document`. Raises StatementRefused."""
    if len(data) > MOST_BYTES:
        raise StatementRefused("too_large", f"the file has more than {MOST_BYTES} bytes")
    try:
        root = fromstring(data, forbid_dtd=True)
    except DefusedXmlException as error:
        raise StatementRefused("forbidden_xml", f"no DTD and no entity is read: {error}") from error
    except (ParseError, ValueError, LookupError) as error:
        raise StatementRefused("no_xml", f"the file is no XML: {error}") from error
    namespace, _, name = root.tag.removeprefix("{").rpartition("}")
    if name != "Document" or not namespace:
        raise StatementRefused("no_document", f"the root is {root.tag}, not an ISO 20022 Document")
    return namespace, Node(root, namespace)
