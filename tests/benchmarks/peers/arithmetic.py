"""Medians, ratios round by round, and the table."""

import statistics
from collections import defaultdict
from dataclasses import dataclass, field


@dataclass
class Findings:
    """What was measured: of each measure, of each thing, one value a round."""

    values: dict[str, dict[str, list[float]]] = field(
        default_factory=lambda: defaultdict(lambda: defaultdict(list))
    )
    missing: dict[str, str] = field(default_factory=dict)  # thing -> why

    def add(self, measure: str, thing: str, value: float) -> None:
        self.values[measure][thing].append(value)

    def median(self, measure: str, thing: str) -> float | None:
        found = self.values[measure].get(thing)
        return statistics.median(found) if found else None

    def ratio(self, measure: str, thing: str, to: str) -> float | None:
        """The median of the ratios of each round: what disturbs a round disturbs both."""
        ours, theirs = self.values[measure].get(thing, []), self.values[measure].get(to, [])
        ratios = [a / b for a, b in zip(ours, theirs, strict=False) if b]
        return statistics.median(ratios) if ratios else None


def slope(points: list[tuple[float, float]]) -> float:
    """Of the line through the points, by least squares."""
    if len(points) < 2:
        return 0.0
    mean_x = sum(x for x, _ in points) / len(points)
    mean_y = sum(y for _, y in points) / len(points)
    spread = sum((x - mean_x) ** 2 for x, _ in points)
    return sum((x - mean_x) * (y - mean_y) for x, y in points) / spread if spread else 0.0


def number(value: float | None) -> str:
    """For a table: three digits that tell something."""
    if value is None:
        return "-"
    digits = 0 if abs(value) >= 100 else 1 if abs(value) >= 10 else 2
    return f"{value:,.{digits}f}"


def table(head: list[str], rows: list[list[str]]) -> str:
    """The first column flush left, the others flush right."""
    widths = [max(len(row[at]) for row in [head, *rows]) for at in range(len(head))]

    def line(cells: list[str]) -> str:
        first = cells[0].ljust(widths[0])
        return "  ".join([first, *(c.rjust(w) for c, w in zip(cells[1:], widths[1:], strict=True))])

    return "\n".join([line(head), "  ".join("-" * width for width in widths), *map(line, rows)])
