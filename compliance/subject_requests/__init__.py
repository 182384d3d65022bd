"""What people ask about data of themselves, and by when it is answered.

Words
    request    access, rectification, erasure, restriction, portability or objection, of a person.
    role       whose answer it is: the operator's (controller), or a tenant's, to whom it was
               forwarded (processor).
    due        the last day for an answer: a month after receipt, which may become three (`clock`).
    register   all of them, also those that were refused. It holds ids and codes; words that
               people typed stand in events, as openings that may be deleted.
"""
