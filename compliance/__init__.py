"""The foundation: what can be shown afterwards about who did what.

Words
    event       one fact, written in the transaction of the verb that it tells of (`audit.record`).
                Its `body`, canonical JSON (RFC 8785), is the truth; the columns index it.
    log         where an event stands: an organization's id, or "platform" for the operator's.
    action      the name of the fact, `noun.verb`, from the closed catalogue in `actions`.
    commitment  a salted SHA-256 that stands in the body in place of a personal value.
    opening     salt and value of a commitment, sealed, in a row that may be deleted: after that
                the event still stands and the value is gone.
    seal        encrypt, bound to a context: under a data key of a person's or organization's own
                (`keys`), or the installation's master key (`sealing`).
    export      datasets of a log and a period, built by a worker as a signed bundle (`bundles`).

What always holds
    - An event and the change that it tells of commit together or not at all.
    - Events are only added: the running roles may not change them, and triggers refuse it even
      to the tables' owner. (An owner can drop a trigger: hence the roles in `grants`.)
    - No personal value, no secret and no prompt is in a body.
    - This room imports no other. Rooms register with it: datasets, append-only tables.
"""
