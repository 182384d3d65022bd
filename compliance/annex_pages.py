"""documents/controls.pdf of an `annex_a` pack: each control on a line or two, for people. PDF/A."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from compliance.bundles import summary
from compliance.models import Export
from compliance.sheet import GREY, WIDTH, Column, Sheet, Table, Text
from compliance.stamps import stamp

_THEMES = {"5": "Organizational", "6": "People", "7": "Physical", "8": "Technological"}
_COLUMNS = (Column("Control", 16), Column("What it is about", 62), Column("Evidence", WIDTH - 78))


def render(export: Export, end: datetime, listed: Sequence[dict[str, Any]]) -> bytes:
    """`listed`: of annex_pack.entry, with `rows`, in the order of the catalogue."""
    footer = [
        f"Made for {export.requested_by} at {stamp(export.created_at)}",
        f"Bundle {export.id}",
    ]
    sheet = Sheet(footer, "Evidence: controls of Annex A")
    try:
        name = f"Controls of Annex A, {export.id}"
        sheet.set_lang("en")
        sheet.set_creation_date(export.created_at)
        sheet.set_title(name)
        sheet.set_xmp_metadata(summary.metadata(name, export.created_at))
        summary.title(sheet, "ISO/IEC 27001:2022, Annex A: evidence of a period", 15)
        shown = sum(1 for one in listed if one["producers"])
        sheet.flow(
            Text(
                f"Log {export.log_id}, from {stamp(export.period_start)} to before {stamp(end)}."
                f" For {shown} of {len(listed)} controls this bundle has tables; the others are"
                " organisational, with the reason. It supports evidence for an audit and judges"
                " nothing: whether a control is met is for the auditor. Titles are our own words."
            )
        )
        sheet.set_y(sheet.get_y() + 3)
        table = Table(sheet, _COLUMNS)
        table.head()
        theme = ""
        for one in listed:
            if (part := one["control"].split(".")[1]) != theme:
                theme = part
                table.band(_THEMES[part], "", 12)
            table.row([[Text(one["control"], 8.5, "B")], [Text(one["title"])], _evidence(one)])
        return bytes(sheet.output())
    finally:
        sheet.close()


def _evidence(one: dict[str, Any]) -> list[Text]:
    said = [Text(f"data/{name}.csv: {rows} rows") for name, rows in one["rows"].items()]
    if one["beside"]:
        lead = "Not shown" if said else "Organisational"
        said.append(Text(f"{lead}: {one['beside']}", grey=GREY))
    return said
