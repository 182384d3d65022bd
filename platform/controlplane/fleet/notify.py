"""Telling the web processes that a node or an endpoint changed, so that what waits wakes up."""

from django.db import connection

CHANGED = "stoa_changed"  # payload: a node_… or ep_… id


def changed(*ids: str) -> None:
    """Notify with the transaction under way: on commit, or never."""
    if not ids:
        return
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT pg_notify(%s, changed) FROM unnest(%s::text[]) AS changed",
            [CHANGED, sorted(set(ids))],
        )
