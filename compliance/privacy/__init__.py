"""Personal data: what each column holds, how long it is kept, and what is told of it.

Words
    level       how near a column's values are to a person (`registry.Level`).
    table       one database table, classified: levels, role, purpose, basis, retention, location.
    role        CONTROLLER: the operator decides why and how; PROCESSOR: he does what a tenant asks.
    rule        how long a category is kept, on what ground, and what ends it (`retention`).
    hold        suspends retention and erasure for a subject (`holds`).

What always holds
    - Every column of every table is classified by the room whose table it is, in its `privacy.py`;
      a test names those that are not.
    - This package imports no other room: rooms register with it as they load.
"""
