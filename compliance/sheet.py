"""A4 paper for documents: fonts, footer with page numbers, and tables that repeat their head.

fpdf2 writes PDF/A by itself, and every glyph comes from the wheel `ttf-opensans`: Latin with all
of Europe's accents, Greek, Cyrillic. Lengths are millimetres, sizes are points.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal
from unicodedata import normalize

from fpdf import FPDF
from fpdf.enums import XPos, YPos

from compliance import typefaces

# It tells of each table in each font that it makes smaller.
logging.getLogger("fontTools.subset").setLevel(logging.WARNING)

LEFT, RIGHT, TOP, BOTTOM = 20.0, 20.0, 18.0, 26.0
WIDTH = 210 - LEFT - RIGHT
LEAD = 1.38  # line height over size
INK, GREY, RULE, SHADE = 25, 110, 190, 243
# Stands for the number of pages until that is known. Nobody's endpoint is called so.
PAGES = "{§pages§}"
Align = Literal["L", "R"]
Style = Literal["", "B"]


class Unsettable(ValueError):
    """A name that must stand as it is has letters that the font lacks."""


@dataclass(frozen=True)
class Text:
    """A paragraph: words, size, weight, greyness."""

    words: str
    size: float = 8.5
    style: Style = ""
    grey: int = INK


@dataclass(frozen=True)
class Column:
    head: str
    width: float
    align: Align = "L"


class Sheet(FPDF):
    def __init__(self, footer: Sequence[str], label: str) -> None:
        super().__init__(format="A4", enforce_compliance="PDF/A-3B")
        self._footer, self._label = footer, label
        self.alias_nb_pages(PAGES)
        typefaces.add(self, "text")
        self.set_margins(LEFT, TOP, RIGHT)
        self.set_auto_page_break(False)
        self.c_margin = 0
        self.add_page()

    def close(self) -> None:
        """Let go of the fonts' files; nothing can be set or written after it."""
        typefaces.close(self)

    @property
    def floor(self) -> float:
        """Where the footer begins."""
        return float(self.h) - BOTTOM

    def footer(self) -> None:
        self.set_draw_color(RULE)
        self.set_line_width(0.2)
        self.line(LEFT, self.floor + 4, LEFT + WIDTH, self.floor + 4)
        self.set_xy(LEFT, self.floor + 6)
        for words in self._footer:
            self.put(Text(words, 7, grey=GREY), LEFT, WIDTH - 45)
        self.set_xy(LEFT, self.floor + 6)
        self.put(Text(self._label, 7, grey=GREY), LEFT, WIDTH, "R")
        # fpdf2 puts the number of pages in at the end, so its width is guessed: as this page's.
        page = f"Page {self.page_no()} of "
        width = self.get_string_width(f"{page}{self.page_no()}")
        self.put(Text(f"{page}{PAGES}", 7, grey=GREY), LEFT + WIDTH - width, width + 15)

    def need(self, height: float) -> bool:
        """Begin a new page unless `height` fits; says whether it did."""
        if self.get_y() + height <= self.floor:
            return False
        self.add_page()
        return True

    def put(self, text: Text, x: float, width: float, align: Align = "L") -> None:
        """Set a paragraph at x and the current height; the height moves on below it."""
        self._style(text)
        self.set_x(x)
        words = self._settable(text.words)
        # Nearly everything is one line, which a cell sets in a third of the time.
        one = self._fits(words, width)
        (self.cell if one else self.multi_cell)(
            width, _leading(text), words, align=align, new_x=XPos.LMARGIN, new_y=YPos.NEXT
        )

    def flow(self, text: Text) -> None:
        """Set a paragraph of any length over the whole width, across pages."""
        for words in self._lines(text, WIDTH):
            self.need(_leading(text))
            self.put(replace(text, words=words), LEFT, WIDTH)

    def height(self, text: Text, width: float) -> float:
        return len(self._lines(text, width)) * _leading(text)

    def _lines(self, text: Text, width: float) -> list[str]:
        self._style(text)
        words = self._settable(text.words)
        if self._fits(words, width):
            return [words]
        lines = self.multi_cell(width, _leading(text), words, dry_run=True, output="LINES")
        assert isinstance(lines, list)
        return lines

    def _fits(self, words: str, width: float) -> bool:
        return "\n" not in words and self.get_string_width(words) <= width

    def _settable(self, words: str) -> str:
        # A glyph that is not there is no PDF/A. The XML has the words as they were.
        lacking = _lacking(words)
        composed = normalize("NFC", words).replace("\t", " ")
        return "".join("?" if c in lacking else c for c in composed)

    def _style(self, text: Text) -> None:
        self.set_font("text", text.style, text.size)
        self.set_text_color(text.grey)


def _leading(text: Text) -> float:
    return text.size * LEAD * 25.4 / 72


class Table:
    """Rows under a head that comes back on each page. Cells hold one paragraph below another."""

    def __init__(self, sheet: Sheet, columns: Sequence[Column], x: float = LEFT) -> None:
        self.sheet, self.columns, self.x = sheet, columns, x
        self.width = sum(column.width for column in columns)
        self._band = ""

    def head(self) -> None:
        cells = [[Text(column.head, 7.5, "B", GREY)] for column in self.columns]
        self._draw(cells, rule=0.35, above=0.6, below=1.0)

    def row(self, cells: Sequence[Sequence[Text]], *, keep: float = 0) -> None:
        """One row in one piece, with room for `keep` more below it on the same page."""
        if self.sheet.need(self._height(cells) + 2.6 + keep):
            self.head()
            if self._band:
                self._shade(f"{self._band}, continued", "")
        self._draw(cells, rule=0.15, above=1.2, below=1.2)

    def band(self, left: str, right: str, keep: float = 0) -> None:
        """A shaded row across all columns: whose rows follow, and their sum."""
        if self.sheet.need(self.sheet.height(Text(left, 8.5, "B"), self.width - 32) + 2.4 + keep):
            self.head()
        self._band = left
        self._shade(left, right)

    def _shade(self, left: str, right: str) -> None:
        sheet, text = self.sheet, Text(left, 8.5, "B")
        y, height = sheet.get_y(), sheet.height(text, self.width - 32)
        sheet.set_fill_color(SHADE)
        sheet.rect(self.x, y + 0.2, self.width, height + 1.8, style="F")
        sheet.set_y(y + 1.0)
        sheet.put(text, self.x + 1, self.width - 32)
        if right:
            sheet.set_y(y + 1.0)
            sheet.put(Text(right, 8.5, "B"), self.x, self.width, "R")
        sheet.set_y(y + height + 2.0)

    def _height(self, cells: Sequence[Sequence[Text]]) -> float:
        return max(
            sum(self.sheet.height(text, column.width - 2) for text in cell)
            for cell, column in zip(cells, self.columns, strict=True)
        )

    def _draw(
        self, cells: Sequence[Sequence[Text]], *, rule: float, above: float, below: float
    ) -> None:
        sheet, x, y = self.sheet, self.x, self.sheet.get_y()
        bottom = y + above
        for cell, column in zip(cells, self.columns, strict=True):
            sheet.set_y(y + above)
            for text in cell:
                if text.words:
                    inset = 2.0 if column.align == "R" else 0.0
                    sheet.put(text, x + inset, column.width - 2, column.align)
            bottom = max(bottom, sheet.get_y())
            x += column.width
        sheet.set_draw_color(RULE if rule < 0.3 else GREY)
        sheet.set_line_width(rule)
        sheet.line(self.x, bottom + below, self.x + self.width, bottom + below)
        sheet.set_y(bottom + below)


def must_be_settable(words: str) -> None:
    """Raises Unsettable if the font lacks a letter of `words`."""
    if lacking := _lacking(words):
        raise Unsettable(f"the document's font has no {lacking!r} for {words!r}")


def _lacking(words: str) -> str:
    """The letters of `words` that the font cannot set."""
    glyphs, words = typefaces.glyphs(), normalize("NFC", words)
    return "".join(sorted({c for c in words if c not in "\n\t" and ord(c) not in glyphs}))
