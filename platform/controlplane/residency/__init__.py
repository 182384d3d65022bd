"""Where an organization's data is, and what shows that it stayed there.

Words
    pin         an organization's region. Verbs, scheduler, certificates and the database each
                hold it by themselves (docs/residency.md).
    placement   a node took a replica: `endpoints.PlacementRecord`, which triggers alone write.
    transfers   the report of a period: every place in which something was processed, and how many
                of them are outside of the pin.
    location    a place where data of an organization is kept or sent: `locations`.
    receipt     the signed statement of where one request was processed: `receipts`.

What always holds
    - A report counts what is there, also what should not be: it never assumes the pin.
    - What nobody has stated is said to be not stated.
    - A receipt is made when somebody asks; no request waits for it.
"""
