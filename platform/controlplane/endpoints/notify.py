"""Wakes whoever waits for news of an endpoint or a replica; on the fleet's channel."""

from controlplane.fleet import notify

CHANNEL = notify.CHANGED


def changed(*ids: str) -> None:
    """Announce that something about these `ep_…`, `node_…` or `rep_…` changed; heard on commit."""
    notify.changed(*ids)
