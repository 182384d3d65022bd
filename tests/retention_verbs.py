"""The verbs of retention and of holds, walked by test_verbs."""

from datetime import UTC, datetime, timedelta
from typing import Any

from django.contrib.sessions.models import Session

from compliance.privacy import holds, periods, records, retention
from compliance.subjects import Subject

NOW = datetime(2026, 3, 4, 12, 0, tzinfo=UTC)


def walk(walk: Any) -> None:
    why = {"reason": "a case before a court"}
    walk.do(periods.sync, "retention.publish")
    walk.do(periods.change, "retention.change", code="quote", amount=10, unit="days", **why)
    home = walk.kept.organization
    of = {"subject": Subject("organization", home.id), "log": home.id, "region": home.region_code}
    hold = walk.do(holds.place, "hold.place", **of, **why)
    walk.do(holds.lift, "hold.lift", hold=hold, region=home.region_code, **why)
    part = {"scope": "platform", "part": "dpo", "name": "Ada"}
    walk.do(records.configure, "processing.configure", **part)
    walk.do(records.keep, "processing.version", home.id)
    Session.objects.create(session_key="s", expire_date=NOW - timedelta(days=9))
    walk.do(retention.carry_out, "retention.run", "session")
