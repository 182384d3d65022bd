"""The rows of a benchmark of predictions, and its totals."""

from collections.abc import Sequence
from dataclasses import dataclass

from tests.benchmarks.memory import peers
from tests.benchmarks.memory.scoring import PRINTED_GIB, Quantity, Scored
from tests.benchmarks.peers.arithmetic import table

HEAD = (
    "row",
    "model",
    "version",
    "weights GiB",
    "p50",
    "p95",
    "off %",
    "KV GiB",
    "p50",
    "p95",
    "off",
    "gpustack off",
    "tokens",
    "p50",
    "off %",
    "verdict",
    "refused for want of",
)


@dataclass(frozen=True)
class Totals:
    tokens_pct: tuple[float, ...]
    weights_pct: tuple[float, ...]
    kv_gib: tuple[float, ...]
    gpustack_gib: tuple[float, ...]
    used: int
    refused: int
    wrong: int
    gpustack_wrong: int
    uncovered: int

    @property
    def kv_mae(self) -> float:
        return sum(self.kv_gib) / len(self.kv_gib) if self.kv_gib else 0.0

    @property
    def gpustack_mae(self) -> float:
        return sum(self.gpustack_gib) / len(self.gpustack_gib) if self.gpustack_gib else 0.0


def totals(scored: Sequence[Scored]) -> Totals:
    kept = [each for each in scored if each.kv_gib.scored and each.kv_gib.error is not None]
    theirs = [
        abs(said.kv_gib - (each.row.kv_gib or 0))
        for each in kept
        if (said := peers.gpustack(each.row)) is not None
    ]
    return Totals(
        tokens_pct=_errors([each.tokens for each in scored], percent=True),
        weights_pct=_errors([each.weights for each in scored], percent=True),
        kv_gib=_errors([each.kv_gib for each in scored], percent=False),
        gpustack_gib=tuple(theirs),
        used=sum(_used(each) for each in scored),
        refused=sum(bool(each.refused) for each in scored),
        wrong=sum(each.right is False for each in scored),
        gpustack_wrong=sum(
            said.fits is each.row.failed
            for each in scored
            if each.verdict is not None and (said := peers.gpustack(each.row)) is not None
        ),
        uncovered=len(uncovered(scored)),
    )


def _errors(quantities: Sequence[Quantity], *, percent: bool) -> tuple[float, ...]:
    values = [each.error_pct if percent else each.error for each in quantities if each.scored]
    return tuple(abs(value) for value in values if value is not None)


def _used(each: Scored) -> bool:
    return any(one.predicted is not None for one in (each.weights, each.kv_gib, each.tokens))


def uncovered(scored: Sequence[Scored]) -> list[str]:
    """Quantities that were worse than their p95, by row and name."""
    found = []
    for each in scored:
        at = f"{each.row.line} {each.row.model}"
        if _beyond(each.weights, least=False):
            found.append(f"{at}: weights")
        for name, one in (("KV GiB", each.kv_gib), ("tokens", each.tokens)):
            counted = one.scored and name == "tokens"  # exact but for what is printed
            if not counted and _beyond(one, least=True):
                found.append(f"{at}: {name}")
    return found


def _beyond(one: Quantity, *, least: bool) -> bool:
    """Whether what was reported is worse than the p95, by more than its last printed digit."""
    if one.predicted is None or one.reported is None:
        return False
    worse = one.predicted.p95 - one.reported if least else one.reported - one.predicted.p95
    return worse > PRINTED_GIB


def text(scored: Sequence[Scored]) -> str:
    return table(list(HEAD), [_line(each) for each in scored])


def _line(each: Scored) -> list[str]:
    theirs = peers.gpustack(each.row)
    off = None if theirs is None or each.row.kv_gib is None else theirs.kv_gib - each.row.kv_gib
    verdict = "-" if each.verdict is None else each.verdict.value
    if each.right is False:
        verdict += " (wrong)"
    tokens = _cells(each.tokens, percent=True, places=0)
    return [
        str(each.row.line),
        each.row.model[:34],
        each.row.version or "-",
        *_cells(each.weights, percent=True, places=2),
        *_cells(each.kv_gib, percent=False, places=2),
        "-" if off is None else f"{off:+.2f}",
        *(tokens[0], tokens[1], tokens[3]),
        verdict,
        "; ".join(each.refused),
    ]


def _cells(one: Quantity, *, percent: bool, places: int) -> list[str]:
    """Reported, p50, p95, error; a star where the row counts for the aim."""
    if one.reported is None:
        return ["-"] * 4
    reported = f"{one.reported:.{places}f}"
    if one.predicted is None:
        return [reported, "refused", "-", "-"]
    error = one.error_pct if percent else one.error
    star = "*" if one.scored else ""
    return [
        reported,
        f"{one.predicted.p50:.{places}f}",
        f"{one.predicted.p95:.{places}f}",
        "-" if error is None else f"{error:+.3f}{star}",
    ]
