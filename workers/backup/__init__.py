"""Backups: made on a schedule, encrypted to a key that is not here, proved by restoring them.

Words
    backup      a folder `bak_…` below STOA_BACKUP_DIR: encrypted files, and a manifest that names
                each by size and SHA-256, says what the database held, and is signed.
    keys file   what the database is sealed under, encrypted to others and kept in another place.
    journal     tombstones (compliance.tombstones) outside of the database, apart from backups.
    recovery    what a restore goes back to: for the database the moment of its snapshot, for the
    point       spools the moment at which they began to be copied, which is before it.
    reopening   what a restored database goes through before anybody may use it (`reopening`).
    drill       a restore onto a scratch folder, with checks and a stop watch.

What always holds
    - Spools are copied before the database's snapshot is taken: what a gateway shipped in between
      is in both, and arrives once by its request id. The other way round it would be in neither.
    - A backup appears under its name when all of it is on the disk, and not before; a restored
      folder likewise, and only after it was reopened. What is half-done has another name.
    - Nothing secret is in a data file's clear part, in a manifest, in a log or on a command line.
    - A machine that makes backups cannot read them.
"""
