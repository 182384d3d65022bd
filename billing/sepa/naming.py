"""Invoices that a remittance text names, however people and banks have torn the text."""

import re
from collections.abc import Iterable
from typing import Protocol

# A shorter number stands in many a text by chance.
_SHORTEST = 5


class Named(Protocol):
    @property
    def id(self) -> str: ...
    @property
    def number(self) -> str: ...
    @property
    def reference(self) -> str: ...


def named_in(text: str, invoices: Iterable[Named]) -> tuple[str, ...]:
    """Ids of the invoices whose number or reference stands in the text, in its order.

    Banks break lines anywhere and people write `DE 2026/17`, so what is no letter or digit does
    not count. Of two names one within the other (17 and 171), the longer was meant.
    """
    upper = text.upper()
    dense = _dense(upper)
    spans: list[tuple[int, int, str]] = []
    for invoice in invoices:
        for name in (_dense(invoice.number.upper()), _dense(invoice.reference.upper())):
            # The quick look first: most invoices are not in most texts.
            if len(name) >= _SHORTEST and name in dense:
                spans += [(*found.span(), invoice.id) for found in _pattern(name).finditer(upper)]
    longest = [span for span in spans if not any(_within(span, other) for other in spans)]
    return tuple(dict.fromkeys(identifier for _, _, identifier in sorted(longest)))


def _dense(text: str) -> str:
    return re.sub(r"[^A-Z0-9]", "", text)


def _pattern(name: str) -> re.Pattern[str]:
    return re.compile(rf"(?<![A-Z0-9]){r'[^A-Z0-9]*'.join(name)}(?![A-Z0-9])")


def _within(span: tuple[int, int, str], other: tuple[int, int, str]) -> bool:
    inside = other[0] <= span[0] and span[1] <= other[1]
    return inside and (span[1] - span[0]) < (other[1] - other[0])
