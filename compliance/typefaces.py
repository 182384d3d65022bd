"""The fonts of our documents, opened once in a process.

Of each document's fonts only the letters that it uses are embedded, which spoils the font that
they are cut from. So what is needed to set a page is shared, and each document cuts from a copy
of its own, of which nothing that it does not need has to be read: no layout tables, no hints for
screens of old.
"""

import copy
from functools import lru_cache
from io import BytesIO

from fontTools.subset import Options, Subsetter
from fontTools.ttLib import TTFont
from fpdf import FPDF
from fpdf.fonts import SubsetMap, TTFFont
from ttf_opensans import opensans

_WEIGHTS = {"": 400, "B": 600}


def add(page: FPDF, family: str) -> None:
    """As FPDF.add_font, for the regular and the bold one of `family`."""
    for style in _WEIGHTS:
        font = copy.copy(_read(style))
        font.i = len(page.fonts) + 1
        font.fontkey = f"{family}{style}"
        font.desc = copy.copy(font.desc)  # it gets a number in the document
        font.missing_glyphs = []
        font.subset = SubsetMap(font)
        font.ttfont = TTFont(
            BytesIO(_cut(style)), lazy=True, recalcBBoxes=False, recalcTimestamp=False
        )
        page.fonts[font.fontkey] = font


def close(page: FPDF) -> None:
    """Let go of what `page` took. fpdf2 remembers letters of fonts in caches of its classes, which
    would hold every document's fonts for the life of the process."""
    for font in page.fonts.values():
        if isinstance(font, TTFFont):
            font.close()
    SubsetMap.pick.cache_clear()
    SubsetMap.get_glyph.cache_clear()


@lru_cache
def glyphs() -> frozenset[int]:
    """What the regular font has, by code point."""
    return frozenset(_read("").cmap)


@lru_cache
def _read(style: str) -> TTFFont:
    page = FPDF()
    page.add_font("master", style, opensans(font_weight=_WEIGHTS[style]).path)
    (font,) = page.fonts.values()
    assert isinstance(font, TTFFont)
    font.close()
    return font


@lru_cache
def _cut(style: str) -> bytes:
    """The font's file, with all its letters and nothing that only an editor or a screen needs."""
    options = Options(hinting=False, glyph_names=True, notdef_outline=True, name_IDs=["*"])
    options.drop_tables += ["GDEF", "GPOS", "GSUB", "hdmx", "meta", "kern", "DSIG"]
    with TTFont(opensans(font_weight=_WEIGHTS[style]).path, recalcTimestamp=False) as font:
        cutter = Subsetter(options)
        cutter.populate(unicodes=_read(style).cmap)
        cutter.subset(font)
        font.save(made := BytesIO())
    return made.getvalue()
