"""The published schedule of retention: what holds unless an operator set another period.

`registry` tables name these codes; docs/privacy.md prints the same table, and a test compares them.
Rooms register what carries a rule out (`retention.register`).
"""

from compliance.privacy.rules import DELETE, KEEP, NONE_KEPT, REDACT, Period, Rule

_CONTRACT, _INTEREST = "contract", "legitimate_interest"
_LAW, _ASKED, _NONE = "legal_obligation", "instruction", "none"
_MINIMAL = "GDPR/5.1.e"
_VOUCHERS = "AO §147(3), UStG §14b, HGB §257(4)"


def _hours(amount: int) -> Period:
    return Period(amount, "hours")


def _days(amount: int) -> Period:
    return Period(amount, "days")


def _months(amount: int) -> Period:
    return Period(amount, "months")


def _years(amount: int, *, calendar_year: bool = False) -> Period:
    return Period(amount, "years", calendar_year)


_CONTENT = (
    Rule(
        *("prompt", "content", _ASKED, _hours(0), "its request", NONE_KEPT, "REQ-SOV-05"),
        ground="the gateway and the engines keep no content; only files and batches are at rest",
    ),
    Rule(
        *("file", "content", _ASKED, _days(30), "it was made, or as it says", DELETE, _MINIMAL),
        setting="STOA_FILES_KEPT_S",
    ),
    Rule(
        *("batch", "content", _ASKED, _days(30), "it would have expired", DELETE, _MINIMAL),
        setting="STOA_FILES_KEPT_S",
    ),
    Rule(
        *("upload", "models", _ASKED, _days(1), "nobody went on with it", DELETE, _MINIMAL),
        setting="STOA_UPLOADS_UNFINISHED_S",
        ground="a finished one is kept until it is deleted, or its project is",
    ),
    Rule(
        *("quote", "models", _ASKED, _days(30), "it was asked for", DELETE, _MINIMAL),
        floor=_days(1),
        ceiling=_days(365),
        ground="as long as an endpoint that was made with it",
    ),
)

_PEOPLE = (
    Rule(
        *("session", "people", _CONTRACT, _days(1), "it ended", DELETE, _MINIMAL),
        floor=_hours(0),
        ceiling=_days(30),
    ),
    Rule(
        *("stored_reply", "access", _CONTRACT, _hours(24), "it was given", DELETE, _MINIMAL),
    ),
    Rule(
        *("notice", "accounts", _CONTRACT, _months(13), "it was closed", DELETE, _MINIMAL),
        floor=_days(30),
        ceiling=_years(5),
    ),
    Rule(
        *("account", "accounts", _CONTRACT, None, "the contract ends", KEEP, "GDPR/6.1.b"),
        ground="as long as the contract; an erasure, or its return at the end, takes it",
    ),
)

_USAGE = (
    Rule(
        *("request_inbox", "usage", _CONTRACT, _days(30), "it was booked", DELETE, _MINIMAL),
        floor=_days(1),
        ceiling=_months(13),
    ),
    Rule(
        *("inference_metadata", "usage", _CONTRACT, _months(13), "the request", KEEP, "AIA/19.1"),
        floor=_months(6),
        ceiling=_months(24),
        ground="it is what invoices are drawn from: after the period it stays as a voucher, by"
        " pseudonyms, and the running role cannot delete it",
    ),
    Rule(
        *("run_counter", "usage", _ASKED, _days(90), "it last counted", DELETE, _MINIMAL),
        setting="STOA_RUNS_KEPT_S",
    ),
    Rule(
        *("run_stop", "usage", _ASKED, _days(7), "it was stopped", DELETE, _MINIMAL),
        floor=_days(1),
        ceiling=_days(90),
    ),
    Rule(
        *("meter_evidence", "usage", _CONTRACT, _days(731), "it was received", DELETE, _MINIMAL),
        floor=_months(13),
        ceiling=_years(10),
        setting="STOA_METER_EVIDENCE_DAYS",
    ),
)

_BOOKS = (
    Rule(
        *("voucher", "invoicing", _LAW, _years(8, calendar_year=True)),
        *("its year", KEEP, _VOUCHERS, "DE"),
        ground="vouchers and what they were made of; an owner of the tables removes them after it",
    ),
    Rule(
        *("invoice_file", "invoicing", _LAW, _years(8, calendar_year=True)),
        *("it was issued", KEEP, _VOUCHERS, "the issuer's country"),
        ground="each file has its own last day (billing/vat/data/retention.json); then the"
        " operator destroys it by `stoa billing archive`, since an open assessment suspends it",
    ),
    Rule(
        *("vault", "invoicing", _LAW, _hours(0), "the file's last day", DELETE, _VOUCHERS),
        ground="invoices of an organization that was erased, sealed under keys of their own; each"
        " key has its own last day, and a legal hold suspends it",
    ),
    Rule(
        *("stripe_event", "payments", _CONTRACT, _days(90), "it came", DELETE, _MINIMAL),
        floor=_days(7),
        ceiling=_days(365),
        ground="only that something happened, and to which object of Stripe's",
    ),
    Rule(
        *("ledger", "invoicing", _LAW, _years(10, calendar_year=True)),
        *("its year", KEEP, "AO §147(3), HGB §257(4)", "DE"),
        ground="books are only added to; an owner of the tables removes them after it",
    ),
)

_EVIDENCE = (
    Rule(
        *("audit_body", "evidence", _INTEREST, None, "never", KEEP, "GDPR/5.2"),
        ground="events by pseudonyms and their hashes: a log with holes proves nothing",
    ),
    Rule(
        *("audit_opening", "evidence", _INTEREST, _months(24), "the event", REDACT, _MINIMAL),
        floor=_months(12),
        ceiling=_months(120),
    ),
    Rule(
        *("operator_opening", "evidence", _INTEREST, _months(36), "the event", REDACT, _MINIMAL),
        floor=_months(12),
        ceiling=_months(120),
    ),
    Rule(
        *("network_trace", "evidence", _INTEREST, _days(90), "the event", REDACT, _MINIMAL),
        floor=_days(30),
        ceiling=_days(90),
    ),
    Rule(
        *("export_file", "evidence", _INTEREST, _days(7), "it was built", DELETE, _MINIMAL),
    ),
    Rule(
        *("export_record", "evidence", _INTEREST, None, "never", KEEP, "GDPR/5.2"),
        ground="who took what away, and why: part of the log",
    ),
    Rule(
        *("tombstone", "evidence", _INTEREST, None, "never", KEEP, "GDPR/17, GDPR/32.1.c"),
        ground="without it a restored backup would bring back what was ended",
    ),
    Rule(
        *("request_register", "evidence", _LAW, _years(5), "it was closed", DELETE, "GDPR/5.2"),
        floor=_years(3),
        ceiling=_years(10),
    ),
    Rule(
        *("accountability", "evidence", _LAW, None, "never", KEEP, "GDPR/5.2, GDPR/30"),
        ground="schedules, runs, holds and records of processing, by pseudonyms",
    ),
)

_RUNNING = (
    Rule(
        *("operation", "operation", _ASKED, None, "its project is deleted", KEEP, "GDPR/28.3.a"),
        ground="what was asked for and what came of it: bills and audits refer to it",
    ),
    Rule(
        *("engine_log", "operation", _ASKED, _days(7), "the engine ended", DELETE, _MINIMAL),
        floor=_days(1),
        ceiling=_days(30),
    ),
    Rule(
        *("served_day", "operation", _INTEREST, _days(90), "its day", DELETE, _MINIMAL),
        floor=_days(30),
        ceiling=_days(365),
    ),
    Rule(
        *("speed_correction", "operation", _INTEREST, _days(365), "it was measured"),
        *(DELETE, _MINIMAL),
        floor=_days(30),
        ceiling=_years(3),
    ),
    Rule(
        *("machines", "machines", _INTEREST, None, "the machine leaves", KEEP, "GDPR/6.1.f"),
        ground="records of machines that left are evidence of what became of tenants' data",
    ),
    Rule(
        *("node_finding", "machines", _INTEREST, _days(90), "it was over", DELETE, _MINIMAL),
        floor=_days(7),
        ceiling=_days(365),
    ),
    Rule(
        *("live_state", "operation", _NONE, None, "the next one", KEEP, "GDPR/5.1.c"),
        ground="levels that are replaced within minutes as they change",
    ),
    Rule(
        *("catalogue", "catalogue", _NONE, None, "never", KEEP, "GDPR/5.1.e"),
        ground="nothing of persons",
    ),
    Rule(
        *("framework", "catalogue", _NONE, None, "never", KEEP, "GDPR/5.1.e"),
        ground="nothing of persons",
    ),
)

PUBLISHED: dict[str, Rule] = {
    one.code: one
    for part in (_CONTENT, _PEOPLE, _USAGE, _BOOKS, _EVIDENCE, _RUNNING)
    for one in part
}
