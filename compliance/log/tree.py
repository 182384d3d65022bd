"""A log's tree as it lies in the database: nodes for proofs, read a tile of 256 at a time."""

from collections.abc import Iterator

from compliance.log import merkle
from compliance.log.models import LogLeaf, LogNode

_TILE = 8  # heights; 256 hashes
_AT_ONCE = 10_000


def nodes(log_id: str) -> merkle.Nodes:
    """For the makers of proofs. Complete subtrees alone are asked for; they never change."""
    tiles: dict[tuple[int, int], merkle.Nodes] = {}

    def node(height: int, index: int) -> bytes:
        level, above = divmod(height, _TILE)
        tile = index >> (_TILE - above)
        if (found := tiles.get((level, tile))) is None:
            found = tiles[level, tile] = merkle.nodes_of(_tile(log_id, level, tile))
        return found(above, index - (tile << _TILE - above))

    return node


def hashes(log_id: str, start: int, end: int) -> Iterator[bytes]:
    """Leaf hashes from index `start` to before `end`, in order and in bounded memory.

    Raises LookupError where one is missing.
    """
    for first in range(start, end, _AT_ONCE):
        last = min(first + _AT_ONCE, end)
        found = LogLeaf.objects.filter(log_id=log_id, index__gte=first, index__lt=last)
        rows = list(found.order_by("index").values_list("leaf_hash", flat=True))
        if len(rows) != last - first:
            raise LookupError(f"{log_id} lacks leaves from {first} to {last}")
        yield from map(bytes, rows)


def _tile(log_id: str, level: int, tile: int) -> list[bytes]:
    first, last = tile << _TILE, (tile + 1) << _TILE
    within = {"log_id": log_id, "index__gte": first, "index__lt": last}
    if level == 0:
        leaves = LogLeaf.objects.filter(**within).order_by("index")
        return [bytes(one) for one in leaves.values_list("leaf_hash", flat=True)]
    kept = LogNode.objects.filter(level=level, **within).order_by("index")
    return [bytes(one) for one in kept.values_list("hash", flat=True)]
