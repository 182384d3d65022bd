"""The signer: a small process that has the log's key, and signs no head that rewrites a log.

It listens on a Unix socket, speaks JSON lines, and knows nothing of Django, of PostgreSQL or of
events. Its own files are a key and a memory of the last head of each origin; whoever restores an
older database, or alters one, cannot have it sign a shorter or another history.
"""
