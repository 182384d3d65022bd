"""Which devices a replica gets. Pure: no Django, no clock, no I/O.

Vocabulary: a *need* is what one replica asks for; a *candidate* is a node as it stands, with its
free devices; the answer is a *placement* (one node, its devices), or a *refusal* that says for
each node why not. Same question, same answer: ties are broken by id.

The answer is advice on a picture that may be old. Who takes the devices (endpoints.placing)
looks again under a lock.
"""
