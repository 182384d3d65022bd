"""What is kept of Stripe: ids of its objects, what it is asked, and what it told us.

Never a card's number or an account's: those are typed at Stripe, and only brand and last four
digits come here. Accounts, invoices and entities are plain ids.
"""

from django.db import models
from django.db.models import Q

from compliance.fields import IdField


class StripeCustomer(models.Model):
    """An account at Stripe. `customer_id` is empty until Stripe has answered."""

    account_id = models.CharField(max_length=31, primary_key=True)
    customer_id = models.CharField(max_length=64, blank=True)
    created_at = models.DateTimeField()

    class Meta:
        constraints = (
            models.UniqueConstraint(
                fields=("customer_id",), condition=~Q(customer_id=""), name="stripecustomer_once"
            ),
        )

    def __str__(self) -> str:
        return self.account_id


class MethodKind(models.TextChoices):
    CARD = "card"
    SEPA_DEBIT = "sepa_debit", "SEPA direct debit"


class StripeMethod(models.Model):
    """A means of payment that somebody gave at Checkout. The newest that is attached is used."""

    id = IdField("spm")
    account_id = models.CharField(max_length=31)
    method_id = models.CharField(max_length=64, unique=True)
    kind = models.CharField(max_length=16, choices=MethodKind)
    brand = models.CharField(max_length=32, blank=True)
    last4 = models.CharField(max_length=4)
    country = models.CharField(max_length=2, blank=True)
    expires = models.CharField(max_length=7, blank=True)  # "2031-04", of a card
    mandate = models.CharField(max_length=64, blank=True)  # the reference that the bank shows
    created_at = models.DateTimeField()
    detached_at = models.DateTimeField(null=True)

    class Meta:
        indexes = (
            models.Index(
                fields=("account_id", "-created_at"),
                condition=Q(detached_at=None),
                name="stripemethod_attached",
            ),
        )

    def __str__(self) -> str:
        return f"{self.kind} …{self.last4}"


class CallKind(models.TextChoices):
    CUSTOMER = "customer"
    CHECKOUT = "checkout"
    PAYMENT = "payment"
    PAGE = "page"
    EXPIRE = "expire"
    CANCEL = "cancel"
    REFUND = "refund"
    DETACH = "detach"
    METER = "meter"
    METER_CANCEL = "meter_cancel"


class CallState(models.TextChoices):
    WAITING = "waiting"
    DONE = "done"
    REFUSED = "refused"  # by Stripe, for good
    DROPPED = "dropped"  # by us, before it was ever sent


class StripeCall(models.Model):
    """One thing to ask of Stripe, written with the business that wants it: the outbox.

    Its id is the Idempotency-Key, and stands in the metadata of what it makes. `body` is fixed
    when it is first sent. `generation` counts keys: a further one is drawn only where Stripe keeps
    an error under the last, and was asked and had done nothing.
    """

    id = IdField("sca")
    kind = models.CharField(max_length=16, choices=CallKind)
    subject_id = models.CharField(max_length=64)  # of the row that it is about
    account_id = models.CharField(max_length=31)
    body = models.JSONField(null=True)
    state = models.CharField(max_length=16, choices=CallState, default=CallState.WAITING)
    generation = models.PositiveSmallIntegerField(default=0)
    stuck = models.BooleanField(default=False)
    attempts = models.PositiveIntegerField(default=0)
    first_sent_at = models.DateTimeField(null=True)
    next_at = models.DateTimeField()  # not before; while it is being sent, until when it is leased
    result_id = models.CharField(max_length=128, blank=True)
    problem = models.CharField(max_length=500, blank=True)
    created_at = models.DateTimeField()
    closed_at = models.DateTimeField(null=True)

    class Meta:
        constraints = (
            models.UniqueConstraint(
                fields=("kind", "subject_id"),
                condition=Q(state="waiting"),
                name="stripecall_one_waiting",
            ),
            models.CheckConstraint(
                condition=Q(attempts=0) | Q(first_sent_at__isnull=False, body__isnull=False),
                name="stripecall_body_fixed",
            ),
        )
        indexes = (
            models.Index(fields=("next_at",), condition=Q(state="waiting"), name="stripecall_due"),
        )

    def __str__(self) -> str:
        return f"{self.kind} {self.subject_id}"

    @property
    def key(self) -> str:
        """The Idempotency-Key, at most 255 characters."""
        return f"{self.id}-{self.generation}" if self.generation else self.id


class PaymentState(models.TextChoices):
    ASKED = "asked"  # written, not known to have reached Stripe
    OFFERED = "offered", "on Stripe's page"  # a person may pay there until the page expires
    PROCESSING = "processing"  # the bank has yet to answer
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELED = "canceled"


LIVE = (PaymentState.ASKED, PaymentState.OFFERED, PaymentState.PROCESSING)
_LIVE = ("asked", "offered", "processing")  # the same, as migrations write it


class StripePayment(models.Model):
    """One try to collect the open amount of one invoice. At most one of an invoice is live.

    By a stored `method`; without one it is a page at Stripe (`session_id`, once it is known).
    """

    id = IdField("spy")
    invoice_id = models.CharField(max_length=31, db_index=True)
    account_id = models.CharField(max_length=31)
    entity_id = models.CharField(max_length=31)
    amount = models.BigIntegerField()  # in the smallest unit of the currency
    currency = models.CharField(max_length=3)
    method = models.ForeignKey(StripeMethod, on_delete=models.PROTECT, null=True)
    session_id = models.CharField(max_length=128, blank=True)
    state = models.CharField(max_length=16, choices=PaymentState, default=PaymentState.ASKED)
    intent_id = models.CharField(max_length=64, blank=True)
    payment_id = models.CharField(max_length=31, blank=True)  # the receipt, once there is one
    reason = models.CharField(max_length=64, blank=True)  # Stripe's code, of a failure
    created_at = models.DateTimeField()
    looked_at = models.DateTimeField(null=True)  # when Stripe was last asked about it
    closed_at = models.DateTimeField(null=True)

    class Meta:
        constraints = (
            models.UniqueConstraint(
                fields=("invoice_id",),
                condition=Q(state__in=_LIVE),
                name="stripepayment_one_live",
            ),
            models.UniqueConstraint(
                fields=("intent_id",), condition=~Q(intent_id=""), name="stripepayment_intent"
            ),
            models.CheckConstraint(condition=Q(amount__gt=0), name="stripepayment_amount"),
            models.CheckConstraint(
                condition=Q(method__isnull=True) | (Q(session_id="") & ~Q(state="offered")),
                name="stripepayment_page",
            ),
        )
        indexes = (
            models.Index(
                fields=("looked_at",),
                condition=Q(state__in=_LIVE),
                name="stripepayment_live",
            ),
        )

    def __str__(self) -> str:
        return f"{self.invoice_id} {self.state}"


class StripeMovement(models.Model):
    """What Stripe took back from a payment: a refund or a dispute, once each."""

    object_id = models.CharField(max_length=64, primary_key=True)  # re_… or du_…
    payment = models.ForeignKey(StripePayment, on_delete=models.PROTECT, related_name="movements")
    amount = models.BigIntegerField()
    status = models.CharField(max_length=32)  # Stripe's own word
    taken = models.BooleanField(default=False)  # booked as given back
    restored = models.BooleanField(default=False)  # booked as come back: won, or never arrived
    created_at = models.DateTimeField()

    def __str__(self) -> str:
        return f"{self.object_id} {self.status}"


class EventState(models.TextChoices):
    WAITING = "waiting"
    DONE = "done"
    IGNORED = "ignored"


class StripeEvent(models.Model):
    """A webhook that was verified. Only its type and whose it is: the object is asked for."""

    event_id = models.CharField(max_length=64, primary_key=True)
    type = models.CharField(max_length=100)
    object_id = models.CharField(max_length=128, blank=True)
    livemode = models.BooleanField()
    made_at = models.DateTimeField()
    received_at = models.DateTimeField()
    state = models.CharField(max_length=16, choices=EventState, default=EventState.WAITING)
    attempts = models.PositiveIntegerField(default=0)
    next_at = models.DateTimeField()
    problem = models.CharField(max_length=500, blank=True)

    class Meta:
        indexes = (
            models.Index(
                fields=("next_at",), condition=Q(state="waiting"), name="stripeevent_waiting"
            ),
            models.Index(fields=("received_at",), name="stripeevent_received"),
        )

    def __str__(self) -> str:
        return f"{self.type} {self.event_id}"


class StripeBooking(models.Model):
    """A movement of Stripe's balance that the ledger has: fees, payouts, and all the rest."""

    transaction_id = models.CharField(max_length=64, primary_key=True)
    type = models.CharField(max_length=64)
    source_id = models.CharField(max_length=64, blank=True)
    amount = models.BigIntegerField()
    fee = models.BigIntegerField()
    currency = models.CharField(max_length=3)
    made_at = models.DateTimeField()
    booked_at = models.DateTimeField()
    seen_at_bank = models.DateField(null=True)  # of a payout, once a statement shows it

    class Meta:
        indexes = (models.Index(fields=("made_at",), name="stripebooking_made"),)

    def __str__(self) -> str:
        return f"{self.type} {self.amount}"


class StripeCheck(models.Model):
    """A comparison of our books with Stripe's. `differences` are words for people."""

    id = IdField("sck")
    started_at = models.DateTimeField()
    until = models.DateTimeField()
    finished_at = models.DateTimeField(null=True)
    differences = models.JSONField(default=list)

    def __str__(self) -> str:
        return f"{self.until} {len(self.differences)}"


class StripeMeterEvent(models.Model):
    """What Stripe's meters were told of one hour, so that it is told once, however long ago."""

    identifier = models.CharField(max_length=100, primary_key=True)
    account_id = models.CharField(max_length=31)
    meter = models.CharField(max_length=32)
    hour = models.DateTimeField()
    quantity = models.BigIntegerField()  # what this event adds
    created_at = models.DateTimeField()
    sent_at = models.DateTimeField(null=True)
    canceled_at = models.DateTimeField(null=True)
    given_up_at = models.DateTimeField(null=True)  # too old for Stripe: by hand

    class Meta:
        indexes = (
            models.Index(fields=("account_id", "meter", "hour"), name="stripemeter_hour"),
            models.Index(
                fields=("hour",),
                condition=Q(sent_at=None, given_up_at=None, canceled_at=None),
                name="stripemeter_unsent",
            ),
        )

    def __str__(self) -> str:
        return self.identifier
