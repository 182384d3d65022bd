"""docs/controls.md: the list of controls and producers, from the code."""

from compliance import controls
from compliance.controls import CONTROLS

_HEAD = """# Controls of Annex A, and what shows how they work

Written by `stoa evidence controls`; a test holds it equal to the code. The numbers are those of
ISO/IEC 27001:2022, Annex A; the titles are our own words. The software supports evidence for a
control; whether it is met is for an auditor to say.

`stoa evidence export annex_a`, the console and `POST /api/v1/exports` make the pack of a period,
for an organization or for the operator (`--platform`): a table of each producer, the list as
`documents/controls.pdf` and `.json`, and `documents/evidence.json`, where a record of each
producer says what was asked (`source_query` and its SHA-256), how many rows there are, the sum of
the table, and the signed head of the log. `GET
/api/v1/controls/A.8.2?organization=…&since=…&until=…` answers the same for one control, and with
`as_of=` for a moment. A producer whose rows are events of the log names their actions: who counts
those in the bundle's `log/events.jsonl` must come to the same. A record says `incomplete` where
an event that the log has a leaf of is gone.

"""


def markdown() -> str:
    shown = sum(1 for one in CONTROLS if controls.of_control(one))
    lines = [
        f"Of {len(CONTROLS)} controls {shown} have evidence; {len(CONTROLS) - shown} are"
        " organisational.\n",
        "| control | about | tables | not shown, or why organisational |",
        "|---|---|---|---|",
    ]
    for control in CONTROLS.values():
        names = [f"`{one.name}`" for one in controls.of_control(control.id)]
        tables = ", ".join(names) or "organisational"
        lines.append(f"| {control.id} | {control.title} | {tables} | {control.beside} |")
    lines += [
        "\n## Producers\n",
        "| table | in the pack of | which rows there are |",
        "|---|---|---|",
    ]
    for name, one in sorted(controls.producers.items()):
        actions = (one.events or {}).get("action", ())
        which = f": {', '.join(f'`{each}`' for each in actions)}" if actions else ""
        whose = ", ".join(sorted(one.logs))
        lines.append(f"| `{name}` | {whose} | {one.population}{which} |")
    return _HEAD + "\n".join(lines) + "\n"
