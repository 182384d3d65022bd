"""What billing holds of an organization: no lower room knows whose account it is."""

from collections.abc import Iterable
from datetime import datetime

from django.db.models import F, Value
from django.db.models.functions import Concat

from billing.models import Account
from compliance.privacy import stores
from compliance.privacy.stores import ERASED, Found, Outcome, Rows
from compliance.subjects import ORGANIZATION, Subject
from controlplane.tenancy.models import User


class People(stores.Base):
    """Members' logins: people are subjects of their own, and may belong elsewhere too."""

    name, kind, action = "tenancy.users/organization", ORGANIZATION, stores.KEEP
    ground = "the logins of people, who are erased as people: when they ask, or by the operator"

    def find(self, subject: Subject) -> Found:
        members = User.objects.filter(memberships__organization_id=subject.id)
        return Found(members.count(), ("tenancy_user.email",))

    def erase(self, subject: Subject, now: datetime) -> Outcome:
        return self.plan(subject, now)


def of_accounts() -> Iterable[Rows]:
    """The account itself stays, as a number that the books name."""
    yield Rows(
        name="billing.accounts",
        model=Account,
        of="organization__id",
        kind=ORGANIZATION,
        action=stores.PSEUDONYMISE,
        put={"name": Concat(Value(f"{ERASED} "), F("id"))},
    )


def register() -> None:
    stores.register(People())
    for store in of_accounts():
        stores.register(store)
