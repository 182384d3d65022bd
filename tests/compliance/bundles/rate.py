"""How fast the published verifier checks a bundle."""

import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from compliance.bundles.stoa_verify import Tree
from tests.compliance.bundles.making import MemoryLog, check, event, leaf, make


@dataclass(frozen=True)
class LongLog(MemoryLog):
    """Of many events: its tree is the verifier's own, since the definition's takes too long."""

    all_hashes: bytes = b""

    @property
    def root(self) -> bytes:
        tree = Tree()
        tree.extend(self.all_hashes)
        return tree.root()

    def hashes(self, start: int, end: int) -> Iterator[bytes]:
        yield self.all_hashes[32 * start : 32 * end]


def leaves_per_s(count: int) -> float:
    """Everything about a bundle of `count` events, in seconds of one core; the best of three."""
    bodies = tuple(event(index, d=[]) for index in range(count))
    log = LongLog(bodies, all_hashes=b"".join(map(leaf, bodies)))
    rates = []
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "bundle.zip"
        given = {"openings": [], "uncertified": True, "profile": "pseudonymised"}
        made = make(target, log, most_hashes=count, **given)
        for _ in range(3):
            began = time.process_time()
            assert check(made).exit_code() == 0
            rates.append(count / (time.process_time() - began))
    return max(rates)
