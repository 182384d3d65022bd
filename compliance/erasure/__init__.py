"""Erasing what is held of a person or an organization, and showing afterwards that it is gone.

Words
    plan         what each store (`privacy.stores`) would do: delete, shred, pseudonymise, or keep
                 with a ground and a last day. Its SHA-256 is what is approved.
    step         one store's part; done or not, so that a killed run goes on where it stood.
    verify       afterwards: every store is asked again, and every table is searched for what the
                 subject was known by.
    certificate  says what was done and what is kept, signed; it holds hashes of ids, never names.

What always holds
    - Whoever approves is another than who planned or asked, and not the subject.
    - What was approved is what is done: data that changed meanwhile wants a new plan.
    - From `erasure.execute` on, a backup that is older is erased again on restore (a tombstone).
"""
