"""Invoices that a remittance text names, however people and banks have torn the text."""

import re
from collections import defaultdict
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


class Names:
    """The numbers and references of many invoices, to be found in one text after the other.

    Banks break lines anywhere and people write `DE 2026/17`, so what is no letter or digit does
    not count. Of two names one within the other (17 and 171), the longer was meant.
    """

    def __init__(self, invoices: Iterable[Named]) -> None:
        self._ids: dict[str, list[str]] = defaultdict(list)
        for invoice in invoices:
            for name in {_dense(invoice.number), _dense(invoice.reference)}:
                if len(name) >= _SHORTEST:
                    self._ids[name].append(invoice.id)
        self._lengths = sorted({len(name) for name in self._ids})

    def named_in(self, text: str) -> tuple[str, ...]:
        """Ids of the invoices that the text names, in its order."""
        upper = text.upper()
        spans = [
            (*found.span(), identifier)
            for name in self._possible(_dense(upper))
            for found in _pattern(name).finditer(upper)
            for identifier in self._ids[name]
        ]
        longest = [span for span in spans if not any(_within(span, other) for other in spans)]
        return tuple(dict.fromkeys(identifier for _, _, identifier in sorted(longest)))

    def _possible(self, dense: str) -> set[str]:
        """Names that stand in the text once all between letters and digits is gone."""
        return {
            dense[at : at + length]
            for length in self._lengths
            for at in range(len(dense) - length + 1)
            if dense[at : at + length] in self._ids
        }


def _dense(text: str) -> str:
    return re.sub(r"[^A-Z0-9]", "", text.upper())


def _pattern(name: str) -> re.Pattern[str]:
    return re.compile(rf"(?<![A-Z0-9]){r'[^A-Z0-9]*'.join(name)}(?![A-Z0-9])")


def _within(span: tuple[int, int, str], other: tuple[int, int, str]) -> bool:
    inside = other[0] <= span[0] and span[1] <= other[1]
    return inside and (span[1] - span[0]) < (other[1] - other[0])
