"""The agent: one process on each node that makes the control plane's wish list true.

Vocabulary: the *wish list* (wire.Desired) names every replica that this node must run or stop; a
*record* is what the agent remembers of one replica, on disk; an *engine* is the process group
that serves a replica, behind its *walls*; a *standby* is an engine with its imports done that
serves nobody yet; *marks* in a process's environment say whose it is.

Invariants:
- The agent only calls out, each call signed with a key that never leaves the node; the relay is
  its one listener, for gateways of its region alone.
- At most one engine for a replica, and none for no replica: a record is on disk before an engine
  starts and after, and what carries our mark without a record is ended. kill -9 between any two
  lines changes nothing of that.
- `stopped` and `failed` are reported only when no process of the engine is left, and repeated
  until the wish list no longer holds the replica.
- Ready seconds are one count on the machine's monotonic clock, over restarts of the agent.
- An outage of the control plane stops no engine. A refused credential stops the agent alone; the
  removal of the node stops its engines.
- No Django, no Celery; of the house it imports controlplane.fleet.wire alone.
"""
