"""What a check says."""

import msgspec


class Finding(msgspec.Struct):
    """`ok` or a lack with its `cure`; `refuses`: with this lack a machine may not join. `figures`
    are what was measured, by name, for programs."""

    check: str
    ok: bool
    text: str
    cure: str = ""
    refuses: bool = False
    figures: dict[str, float] = {}
