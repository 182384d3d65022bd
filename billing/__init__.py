"""The cellar: who owes what, and why.

Vocabulary: an *account* owes; a *meter* counts (device-seconds, tokens); a *usage event* is one
quantity of one meter, once; a *price* is one version of what a meter costs; *rating* multiplies
the two; the *ledger* keeps the result in balanced, sealed transactions.

Invariants, each held by the database and not by manners alone:
- a usage event's id counts once, whoever repeats it; one id with two contents is refused aloud;
- usage, prices and the ledger are never edited: the database refuses UPDATE, DELETE, TRUNCATE;
- there is no meter for traffic, so egress cannot have a price;
- each ledger transaction sums to zero and ends with the database transaction that posted it;
- money is exact (integers, Decimal, Fraction), and is rounded once for each line.

Billing knows accounts and meters, never endpoints: what an event is about are plain ids here.
"""
