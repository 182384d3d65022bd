"""The data plane: OpenAI's API in front of the replicas of one region. No Django, no Celery.

Vocabulary. The *directory* is what the gateway knows: keys, endpoints, ready replicas. A *client*
is one connection of a caller, an *upstream* one to an engine. An *exchange* is one request and its
answer. The *spool* is the record on this host's disk of what was served; *shipping* brings it to
PostgreSQL. A request is *held* while its endpoint wakes.

Invariants. Nothing is relayed before its open record is written, and the last byte of an answer
leaves after its close record. Every exchange settles exactly once, however it ends. A client never
steers the engine, reads another organization's prefix cache, or learns of another project's
models. Nothing of a prompt or an answer is logged or written to disk. A client that leaves stops
its generation.

    client.py   HTTP from callers        upstream.py  HTTP to engines
    routes.py   what is behind a path    exchange.py  one request, from key to settlement
    request.py  what a body may say      stream.py    events on their way out
    way.py      where a request goes     router.py    who answers first, and pools.py who may
    patrol.py   who still answers        suspects.py  what fells engines
"""
