"""What the operator tells an organization: once, and until somebody there closes it."""

from datetime import timedelta

import pytest
from django.db import IntegrityError, transaction

from compliance import audit
from compliance.models import AuditEvent
from controlplane.tenancy import notices, services
from controlplane.tenancy.models import Notice, Organization
from tests.tenancy.conftest import NOW

WHO = audit.Actor("user", "usr_01k00000000000000000000000", "session")

ABOUT = audit.Target("engine_version", "vllm 0.32.0")
LATER = NOW + timedelta(hours=1)


@pytest.fixture
def organization(db: None) -> Organization:
    return services.create_organization(
        name="ours", region_code="eu-de-1", owner=None, actor=WHO, now=NOW
    )


def tell(organization: Organization, key: str = "blocked") -> Notice:
    given = {"subject": "vLLM 0.32.0 is blocked", "text": "Choose another.", "about": ABOUT}
    return notices.tell(organization, key=key, now=NOW, **given)  # type: ignore[arg-type]


def test_telling_again_tells_nobody_twice(organization: Organization) -> None:
    first = tell(organization)
    assert tell(organization) == first
    assert Notice.objects.count() == 1
    assert AuditEvent.objects.filter(action="notice.create").count() == 1
    assert notices.open_of(organization) == [first]
    with pytest.raises(IntegrityError), transaction.atomic():
        Notice.objects.create(
            organization=organization, about_type=ABOUT.type, about_id=ABOUT.id, key="blocked",
            subject="again", text="", created_at=NOW,
        )  # fmt: skip


def test_closing_is_for_good(organization: Organization) -> None:
    notice = notices.close(actor=WHO, notice=tell(organization), now=LATER)
    assert (notice.closed_at, notice.closed_by) == (LATER, WHO.id)
    again = notices.close(actor=audit.SYSTEM, notice=notice, now=LATER + timedelta(1))
    assert again.closed_at == LATER
    assert AuditEvent.objects.filter(action="notice.close").count() == 1
    assert notices.open_of(organization) == []
    assert tell(organization).closed_at == LATER  # who has read it is not told again


def test_what_no_longer_holds_is_withdrawn_from_all(organization: Organization) -> None:
    other = services.create_organization(
        name="theirs", region_code="eu-de-1", owner=None, actor=WHO, now=NOW
    )
    for one in (organization, other):
        tell(one)
    kept = tell(organization, "deprecated")
    assert notices.withdraw(actor=WHO, about=ABOUT, key="blocked", now=LATER) == 2
    assert notices.withdraw(actor=WHO, about=ABOUT, key="blocked", now=LATER) == 0
    assert list(Notice.objects.filter(closed_at=None)) == [kept]
