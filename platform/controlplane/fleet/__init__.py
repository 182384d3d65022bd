"""The fleet: what the operator owns, and who may speak for it.

Vocabulary: a *region* is a place in one EU country with a certificate authority of its own; a
*pool* is a set of its nodes that serve alike; a *node* is a machine; a *device* is one thing on
it that a replica can hold. An *enrolment token* lets one machine join one pool, once. A node's
*credential* is a short-lived certificate over a key that never leaves the machine; its *lease*
says until when its last report vouches for it.

Invariants:
- Region and pool come from the enrolment token, never from what a node says of itself.
- A token joins at most one machine, however many try at once.
- Only the newest certificate of a node counts; the one before it counts until the newest is seen.
- Reports of a node take effect in the order in which they were made; a late one changes nothing.
- A lapsed lease makes a node `unreachable`. That is an observation: it removes nothing.
- The authority's key is sealed at rest and is opened only to sign.
"""
