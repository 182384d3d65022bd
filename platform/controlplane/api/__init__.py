"""The doors: management REST for people's programs, and the agents' own.

Vocabulary: a *view* looks a thing up through `access`, calls one verb of a room, and answers; a
*problem* is an error in RFC 9457's shape. The agents' door speaks `fleet.wire` and is no REST.

Invariants: no rule lives here; what a stranger asks for does not exist; every create may be
repeated with its Idempotency-Key; who waits holds neither a thread nor a connection.
"""
