"""Registers that are kept by hand and shown with the rest: there is none yet.

What comes here: sub-processors, breaches, reviews of access, accepted terms, duties of the AI Act.
Each is a module with this shape, as `compliance.subject_requests` has it:

    models      rows that are opened, answered and closed, never deleted by hand; words that people
                typed stay in a column that is classified `personal` (`privacy.own`)
    services    verbs with one event each (`subprocessor.add`, `breach.open`, …), clocks from data
    export      a dataset and a kind (`exports.register_kind`), its control (`controls.register`)
    retention   a code of `privacy.schedule`, with an executor; `request_register` is the pattern
"""
