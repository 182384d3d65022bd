"""The one hint of this room: something about an endpoint may need work (kwarg `endpoint_id`).

Sent after commit. It may be lost, late or repeated: a sweep finds the same work.
"""

from django.db import transaction
from django.dispatch import Signal

changed = Signal()


def hint(endpoint_id: str) -> None:
    """Send `changed` once the transaction under way has committed."""
    transaction.on_commit(lambda: changed.send(sender=None, endpoint_id=endpoint_id))
