"""Models served under a name, and the replicas that serve them.

Vocabulary: an *endpoint* is a wish (a model, on so many devices of a kind, between min and max
replicas); a *replica* is one engine's life, from the wish to its end, on at most one node, unless
it is a *gang* with a *member* on each of several; a *transition* is one arc of that life
(states.py has the picture); a *claim* is a device that a replica holds; a *serving interval* is a
stretch in which a replica was ready, and what is billed.

Invariants:
- `lifecycle.advance` is the only door through which a replica changes its state; it moves by
  compare-and-set, so a late or repeated mover changes nothing.
- `reconcile.plan` decides and touches nothing; whoever applies an action does so under a guard,
  so any number of reconcilers may run at once.
- A replica is given to one node, or a gang to all of its nodes, once. Devices are free again only
  when their node has said that no engine of it runs, or when the operator removed the node.
- A node's report is a level, not an edge: a lost, late or repeated one changes nothing in the end.
- Serving intervals of a replica never overlap, and none is open unless the replica is ready.
- A verb (services.py) writes the wish and its audit event in one transaction; the hint that
  follows may get lost, since a sweep finds whatever is left to do.
"""
