"""The log's part of the workers, for tests that need signed heads: with a real signer."""

from datetime import datetime

from compliance.log import checkpoints, sequencer
from compliance.log.models import Log


def settle(now: datetime) -> None:
    """All that happened has its index under a signed head, and those heads are in the meta log.

    Within `tests.signers.running`.
    """
    _drain(now)
    for log in Log.objects.filter(closed_at=None).exclude(owner="meta"):
        checkpoints.sign(log, now)
    _drain(now)
    for log in Log.objects.filter(closed_at=None, owner="meta"):
        checkpoints.sign(log, now)


def _drain(now: datetime) -> None:
    while sequencer.sequence(now):
        pass
