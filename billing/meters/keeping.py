"""How long nodes' signed records stay: evidence with a date on which its time is over.

The tables are added to only, and the running role may not delete. What is older than the rule
`meter_evidence` says goes by a function that their owner lends, and that keeps thirteen months
whoever asks.
"""

from datetime import datetime

from django.db import connection

AT_ONCE = 50_000
MOST = 40  # pieces of one time; ten thousand replicas tell twelve an hour


def expire(before: datetime, at_once: int = AT_ONCE, most: int = MOST) -> int:
    """Remove batches and records of before then, in pieces; returns how many rows. What is left is
    for the next time. Certificates stay: there are few."""
    total = 0
    for _ in range(most):
        with connection.cursor() as cursor:
            cursor.execute("SELECT billing_expire_evidence(%s, %s)", [before, at_once])
            (gone,) = cursor.fetchone() or (0,)
        total += gone
        if gone == 0:
            break
    return total
