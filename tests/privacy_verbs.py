"""The verbs on people's data, each once: a part of the walk of tests/test_verbs.py."""

from datetime import UTC, datetime
from typing import Any

from compliance import audit
from compliance.erasure import executing, planning
from compliance.models import AuditEvent, Erasure
from compliance.subject_requests import services
from compliance.subjects import PERSON, Subject
from controlplane.tenancy.models import User
from tests import signers


def walk(walk: Any) -> None:
    now = datetime(2026, 3, 4, 12, 0, tzinfo=UTC)
    user = User.objects.create(email="leaving@example.eu", password="!", created_at=now)
    asked = {"type": "rectification", "log": audit.PLATFORM, "subject_id": user.id}
    request = walk.do(services.open_request, "subject_request.open", **asked)
    given = {"request": request}
    walk.do(services.verify, "subject_request.verify", **given, confirmed=True)
    why = {"reason": "complexity", "words": "it is a lot"}
    walk.do(services.extend, "subject_request.extend", **given, **why)
    walk.do(services.decide, "subject_request.decide", **given, decision="granted")
    walk.do(services.close, "subject_request.close", **given)
    subject = Subject(PERSON, user.id)
    erasure = walk.do(planning.plan, "erasure.plan", subject=subject, log=audit.PLATFORM)
    Erasure.objects.update(planned_by="usr_another")
    digest = erasure.plan_sha256
    walk.do(planning.approve, "erasure.approve", erasure=erasure, plan_sha256=digest)
    before = set(AuditEvent.objects.values_list("id", flat=True))
    executing.execute(erasure=erasure, now=now)
    told = AuditEvent.objects.exclude(id__in=before).order_by("id")
    assert [one.action for one in told] == ["erasure.execute", "data_key.destroy"]
    walk.walked.add(executing.execute)
    walk.do(executing.verify, "erasure.verify", erasure=erasure)
    with signers.running():
        walk.do(executing.certify, "erasure.certify", erasure=erasure)
