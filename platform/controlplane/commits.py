"""Commits that do not wait for the disk, for what is said again anyway.

After a crash of PostgreSQL the last half second of them may be gone, never more and never a part
of one; what is committed later as usual takes them along.
"""

# A column of what one statement outside a transaction returns; it holds for that statement alone.
UNFLUSHED = "set_config('synchronous_commit', 'off', true)"
