"""Keeps keys: notes new versions of the key-encryption key and moves data keys over to them.

`tend` may run anywhere, twice at once, and be killed at any line.
"""

import logging
from datetime import datetime, timedelta

from compliance.keys import kms, rotation
from compliance.models import KekVersion
from workers.agent.checks.finding import Finding

log = logging.getLogger(__name__)


def tend(now: datetime) -> int:
    """How many data keys were rewrapped; a KMS that is away is asked again by the next round."""
    try:
        done = rotation.rewrap(now=now)
    except kms.KmsAway as error:
        log.error("%s", error)
        return 0
    if done.done:
        log.info("%d data keys rewrapped under %s, %d left", done.done, done.kek, done.left)
    return done.done


def finding(now: datetime) -> Finding:
    """Whether the KMS answers, how old its newest version is, and what waits to be rewrapped."""
    try:
        newest = kms.current().versions()[-1]
        left = rotation.waiting()
    except kms.KmsAway as error:
        return Finding("keys", False, str(error), "see STOA_KMS and docs/keys.md")
    age = max(now - newest.created_at, timedelta())
    text = f"{newest.kek} is {age.days} days old, {left} data keys wait to be rewrapped by it"
    noted = KekVersion.objects.filter(kek=newest.kek).values_list("noted_at", flat=True).first()
    late = left and noted is not None and now - noted > timedelta(hours=1)
    cure = "`stoa keys rotate`" if age > rotation.KEK_MOST else "see the worker's log: tend_keys"
    figures: dict[str, float] = {"kek_age_days": age.days, "waiting": left}
    ok = age <= rotation.KEK_MOST and not late
    return Finding("keys", ok, text, cure, figures=figures)
