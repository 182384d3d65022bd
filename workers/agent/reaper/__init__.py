"""What runs on the node against what should: whatever is unknown ends, and is told.

    observe ──▶ things ──▶ judge (pure) ──▶ act ──▶ an event for each end
                  expected ──╯

Vocabulary: a *thing* is anything that outlives an agent: a process, a container, a folder, a
socket, shared memory, a claim on a user id, a part of a model. It is *known* when a record of a
replica that has not ended, or a standby, accounts for it; *ours* when it carries our mark, our
label, our user ids or lies in our folders; a *stranger* is a process that is not ours and holds
one of our devices. A *look* is one round; there is one on every start and one each minute.

Invariants:
- Nothing ends that a record or a start that is under way accounts for. What is expected is asked
  after what is there was seen, and once more for each thing before its end: a record stands before
  anything of it does.
- What is ours and unknown ends once it has been so for the grace; on the agent's start at once,
  for nothing can be starting then.
- A stranger is told, and ends only on a node that its operator gave to the agent alone. Its device
  is not used meanwhile.
- A device is proved clean before each start on it (devices.py).
"""
