"""How a benchmark says what it measured: one JSON line for each figure, at its end."""

import json


def figure(
    name: str,
    value: float,
    unit: str,
    *,
    vs: str | None = None,
    than: float | None = None,
    ratio: float | None = None,
    **labels: str,
) -> None:
    """Print one. `vs` names what it stands beside, `than` is that one's value in the same unit.

    `labels` tell several of one name apart: `case`, `policy`.
    Instead of `than`, the `ratio` to it, where that is more than one value over the other.
    """
    if ratio is None and than:
        ratio = value / than
    ratio = None if ratio is None else round(ratio, 4)
    line = {"name": name, "value": round(value, 4), "unit": unit, "vs": vs, "ratio": ratio}
    print(json.dumps(line | labels), flush=True)
