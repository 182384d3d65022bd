"""The hands behind the house: Celery's hints and sweeps, metering, and what runs on the nodes.

Vocabulary: a *hint* says that work may exist (a Celery task, may be lost or doubled); a *sweep*
looks for itself and is the truth. `workers.agent` runs on each node, `workers.local` on one
machine for all.

Invariants: every task is idempotent and may die at any line; the broker carries ids alone;
nothing here decides (that is `endpoints.reconcile` and `placement.choose`), it only applies.
"""
