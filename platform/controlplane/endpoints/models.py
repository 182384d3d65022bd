"""Endpoint is what somebody wants; Replica is what is; Transition is how it came about."""

from django.contrib.postgres.fields import ArrayField
from django.db import models
from django.db.models import Q
from django.db.models.functions import Now

from compliance.fields import IdField
from controlplane.endpoints.engine_models import EngineVersion as EngineVersion
from controlplane.endpoints.memory_models import MeasuredStart as MeasuredStart
from controlplane.endpoints.memory_models import ModelFacts as ModelFacts
from controlplane.endpoints.placement_models import PlacementNote as PlacementNote
from controlplane.endpoints.placement_models import Reservation as Reservation
from controlplane.endpoints.pull_models import Pull as Pull
from controlplane.endpoints.pull_models import PullNode as PullNode
from controlplane.endpoints.quote_models import Quote as Quote
from controlplane.endpoints.quote_models import ServedDay as ServedDay
from controlplane.endpoints.quote_models import SpeedCorrection as SpeedCorrection
from controlplane.endpoints.region_models import PlacementRecord as PlacementRecord
from controlplane.endpoints.rollout_models import EndpointVersion as EndpointVersion
from controlplane.endpoints.rollout_models import Rollout as Rollout
from controlplane.endpoints.rollout_models import VersionHealth as VersionHealth
from controlplane.endpoints.states import Reason, State
from controlplane.endpoints.upload_models import Upload as Upload
from controlplane.endpoints.upload_models import UploadFile as UploadFile
from controlplane.fleet.models import Device, Node, Pool
from controlplane.scaling.decide import Why
from controlplane.scaling.policy import KeepAlive
from controlplane.tenancy.models import Project

_STATES = [(state.value, state.value) for state in State]
_REASONS = [(reason.value, reason.value) for reason in Reason]
_WHYS = [(why.value, why.value) for why in Why]
_KEEP_ALIVE = [(one.value, one.value) for one in KeepAlive]


class Endpoint(models.Model):
    """Desired state: a model served under a name, by between min and max replicas."""

    id = IdField("ep")
    project = models.ForeignKey(Project, on_delete=models.PROTECT, related_name="endpoints")
    pool = models.ForeignKey(Pool, on_delete=models.PROTECT, related_name="endpoints")
    region_code = models.CharField(max_length=32)
    name = models.CharField(max_length=63)
    source = models.CharField(max_length=16, default="hub")  # wire.SourceKind
    secret = models.CharField(max_length=63, blank=True)  # of the project, by name; what opens it
    # As its source calls it: endpoints.sources; empty: its image brings what it serves.
    model = models.CharField(max_length=300, blank=True)
    revision = models.CharField(max_length=64, blank=True)
    # What a branch was when a replica first served it, so that all serve the same: sources.pin.
    pinned = models.JSONField(default=dict)
    engine = models.CharField(max_length=32, default="vllm")
    # One of engine_versions; empty: as nodes have it, or as its image brings it.
    engine_version = models.CharField(max_length=64, blank=True)
    engine_args = models.JSONField(default=dict)  # {"max_model_len": 4096, …}: engine_args.py
    image = models.JSONField(null=True)  # what replicas are started from: endpoints.images
    adapters = models.JSONField(default=list)  # LoRA: each as wire.Adapter
    # What each replica proves before it is ready; null: what its model's recipe promises.
    capabilities = models.JSONField(null=True)
    device_kind = models.CharField(max_length=64)
    device_count = models.PositiveSmallIntegerField(default=1)  # of each node
    node_count = models.PositiveSmallIntegerField(default=1)  # that one replica stands on
    device_share = models.PositiveSmallIntegerField(default=1000)  # thousandths of its one device
    min_replicas = models.PositiveSmallIntegerField(default=1)
    max_replicas = models.PositiveSmallIntegerField(default=1)
    scale_to_zero_timeout_s = models.PositiveIntegerField(default=3600)
    ttft_target_s = models.FloatField(default=1.0)  # within which prompts should be prefilled
    # What follows is read and checked by elasticity.py.
    keep_alive = models.CharField(max_length=16, choices=_KEEP_ALIVE, default=KeepAlive.PREDICTABLE)
    schedules = models.JSONField(default=list)
    bursts = models.JSONField(default=list)
    keep_warm_cap = models.JSONField(null=True)  # null: no cap
    # Of requests that wait for it, how many and how long; null: as the gateway is set.
    queue_limit = models.PositiveIntegerField(null=True)
    queue_s = models.PositiveIntegerField(null=True)
    start_seconds = models.JSONField(default=list)  # its newest starts, from wish to ready
    # The version that is wished for; the columns above repeat its spec (version_spec.FIELDS).
    generation = models.PositiveIntegerField(default=1)
    created_at = models.DateTimeField()
    stopped_at = models.DateTimeField(null=True)
    deleted_at = models.DateTimeField(null=True)
    wake_requested_at = models.DateTimeField(null=True)
    retry_at = models.DateTimeField(null=True)  # back-off after a failed start
    failures = models.PositiveSmallIntegerField(default=0)  # failed starts in a row
    unfunded_at = models.DateTimeField(null=True)  # when a budget last refused to pay for it
    # What was said of it beforehand, where somebody asked; of the same project.
    quote = models.ForeignKey(Quote, null=True, on_delete=models.SET_NULL, related_name="endpoints")
    # Published to every organization of the region, billed by the token, from then until then.
    shared_at = models.DateTimeField(null=True)
    unshared_at = models.DateTimeField(null=True)

    class Meta:
        ordering = ("-id",)
        constraints = (
            models.UniqueConstraint(
                fields=("project", "name"), condition=Q(deleted_at=None), name="endpoint_name"
            ),
            models.UniqueConstraint(
                fields=("region_code", "name"),
                condition=Q(deleted_at=None, shared_at__isnull=False, unshared_at=None),
                name="endpoint_shared_name",
            ),
            models.CheckConstraint(
                condition=Q(device_share=1000)
                | Q(device_share__gte=1, device_share__lt=1000, device_count=1, node_count=1),
                name="endpoint_shares_one_device",
            ),
            models.CheckConstraint(
                condition=Q(max_replicas__gte=1) & Q(min_replicas__lte=models.F("max_replicas")),
                name="endpoint_replica_bounds",
            ),
        )

    def __str__(self) -> str:
        return self.name

    @property
    def devices_each(self) -> int:
        """What one replica holds, on all of its nodes."""
        return self.device_count * self.node_count

    @property
    def shared(self) -> bool:
        return self.shared_at is not None and self.unshared_at is None


class Replica(models.Model):
    """Observed state: one engine, from the wish to its end. `state` moves by lifecycle.advance."""

    id = IdField("rep")
    endpoint = models.ForeignKey(Endpoint, on_delete=models.PROTECT, related_name="replicas")
    generation = models.PositiveIntegerField()  # number of its version
    version = models.ForeignObject(
        EndpointVersion,
        on_delete=models.PROTECT,
        from_fields=("endpoint", "generation"),
        to_fields=("endpoint", "number"),
        related_name="replicas",
    )
    # Of a gang, which stands on several nodes, there is a Member for each of them instead.
    node = models.ForeignKey(Node, null=True, on_delete=models.PROTECT, related_name="replicas")
    node_count = models.PositiveSmallIntegerField(default=1)  # known once it is placed
    state = models.CharField(max_length=16, choices=_STATES, default=State.REQUESTED)
    reason = models.CharField(max_length=32, choices=_REASONS)
    state_at = models.DateTimeField()
    created_at = models.DateTimeField()
    stop_requested_at = models.DateTimeField(null=True)
    released_at = models.DateTimeField(null=True)  # the node confirmed: no engine, devices free
    address = models.CharField(max_length=300, blank=True)  # unix:/path or relay:host:port
    start_tier = models.CharField(max_length=16, blank=True)  # wire.StartTier
    start_flags = models.JSONField(default=dict)  # what its node added to cut the start
    can_sleep = models.BooleanField(default=False)  # asleep its device's memory is free
    engine_report = models.JSONField(default=dict)  # wire.EngineReport
    adapters = models.JSONField(default=dict)  # by the load's id: state, reason, detail
    proof = models.JSONField(default=dict)  # wire.Proof
    egress = models.JSONField(default=dict)  # what it reached outside: egress.note
    phase_seconds = models.JSONField(default=dict)  # finished phases, by the node's clock
    bytes_done = models.BigIntegerField(default=0)  # of its weights, while they are fetched
    bytes_total = models.BigIntegerField(default=0)  # 0: not known
    progress_at = models.DateTimeField(null=True)  # when its start last got on
    log_tail = models.TextField(blank=True)  # last lines, kept when it failed
    detail = models.CharField(max_length=500, blank=True)  # of the reason, for people
    # The node's desired_version in which the wish for this replica last changed: a report that
    # has taken account of it and does not mention the replica proves that no engine runs.
    wish_version = models.BigIntegerField(default=0)
    # Until then hard budgets have reserved its time, and later seconds are not billed: in an
    # outage of ours nobody asks them. Null: no hard budget bounds it.
    funded_until = models.DateTimeField(null=True)

    class Meta:
        ordering = ("-id",)
        indexes = (
            models.Index(fields=("node",), condition=Q(released_at=None), name="replica_held"),
            models.Index(fields=("endpoint", "state"), name="replica_endpoint_state"),
        )

    def __str__(self) -> str:
        return self.id


class Member(models.Model):
    """A gang's part on one node: rank 0 serves, the others compute for it."""

    replica = models.ForeignKey(Replica, on_delete=models.CASCADE, related_name="members")
    rank = models.PositiveSmallIntegerField()
    node = models.ForeignKey(Node, on_delete=models.PROTECT, related_name="members")
    phase = models.CharField(max_length=16, blank=True)  # wire.Phase; empty: not heard of yet
    bytes_done = models.BigIntegerField(default=0)  # of its weights, while they are fetched
    bytes_total = models.BigIntegerField(default=0)
    wish_version = models.BigIntegerField(default=0)  # as of Replica, on this node
    released_at = models.DateTimeField(null=True)  # its node confirmed: no engine, devices free

    class Meta:
        ordering = ("rank",)
        constraints = (
            models.UniqueConstraint(fields=("replica", "rank"), name="member_rank"),
            models.UniqueConstraint(fields=("replica", "node"), name="member_node"),
        )
        indexes = (
            models.Index(fields=("node",), condition=Q(released_at=None), name="member_held"),
        )

    def __str__(self) -> str:
        return f"{self.replica_id} {self.rank}"


class DeviceClaim(models.Model):
    """A replica holds a device, or thousandths of it.

    A trigger (migration 0037) makes overselling impossible: of a device never more than 1000 are
    held, and by replicas of one organization alone.
    """

    device = models.ForeignKey(Device, on_delete=models.PROTECT, db_index=False)
    replica = models.ForeignKey(Replica, on_delete=models.CASCADE, related_name="claims")
    milli = models.PositiveSmallIntegerField(default=1000)

    class Meta:
        constraints = (
            models.UniqueConstraint(fields=("device", "replica"), name="deviceclaim_once"),
            models.CheckConstraint(
                condition=Q(milli__gte=1, milli__lte=1000), name="deviceclaim_milli"
            ),
        )

    def __str__(self) -> str:
        return f"{self.device_id} {self.milli} {self.replica_id}"


class Transition(models.Model):
    """One arc that a replica took. `at` minus the previous `at` is what the phase cost."""

    id = IdField("trn")
    replica = models.ForeignKey(Replica, on_delete=models.CASCADE, related_name="transitions")
    from_state = models.CharField(max_length=16, choices=_STATES, blank=True)
    to_state = models.CharField(max_length=16, choices=_STATES)
    reason = models.CharField(max_length=32, choices=_REASONS)
    detail = models.CharField(max_length=500, blank=True)
    at = models.DateTimeField()
    seconds = models.FloatField(default=0)  # spent in from_state

    class Meta:
        ordering = ("id",)

    def __str__(self) -> str:
        return f"{self.from_state} → {self.to_state}"


class Start(models.Model):
    """One start that ended: what it took, and whether the time promised for its tier was kept.

    A missed one is evidence that somebody may be owed a credit; nothing removes it.
    """

    id = IdField("sta")
    endpoint = models.ForeignKey(Endpoint, on_delete=models.PROTECT, related_name="starts")
    replica = models.ForeignKey(Replica, on_delete=models.PROTECT, related_name="starts")
    tier = models.CharField(max_length=16, blank=True)  # wire.StartTier; empty: nobody told
    ready = models.BooleanField()  # it came to serve
    reason = models.CharField(max_length=32, choices=_REASONS)
    asked_at = models.DateTimeField()
    ended_at = models.DateTimeField()
    routed_at = models.DateTimeField(null=True)  # a gateway had it in its directory
    total_s = models.FloatField()
    phases = models.JSONField(default=dict)  # starts.PHASES but `routed`, in seconds
    target_s = models.FloatField(null=True)  # null: nothing is promised for the tier
    missed = models.BooleanField(default=False)

    class Meta:
        ordering = ("-id",)
        indexes = (
            models.Index(fields=("endpoint", "-id"), name="start_newest"),
            models.Index(fields=("replica",), condition=Q(routed_at=None), name="start_unrouted"),
        )

    def __str__(self) -> str:
        return f"{self.tier} {self.total_s}"

    @property
    def routed_s(self) -> float | None:
        if self.routed_at is None:
            return None
        return round(max(0.0, (self.routed_at - self.ended_at).total_seconds()), 3)


class ServingInterval(models.Model):
    """A stretch in which a replica was ready: what device-seconds are billed from.

    `served_s` is the node's monotonic count, bounded by the control plane's own clock; the
    interval is closed when the replica leaves `ready`. Intervals of a replica never overlap
    (exclusion constraint, migration 0002).
    """

    id = IdField("siv")
    replica = models.ForeignKey(Replica, on_delete=models.PROTECT, related_name="intervals")
    started_at = models.DateTimeField()
    ended_at = models.DateTimeField(null=True)
    node_offset_s = models.FloatField(default=0)  # the node's count when the interval began
    served_s = models.FloatField(default=0)
    metered_s = models.IntegerField(default=0)  # whole seconds already turned into usage events
    # Microseconds that signed records of its node prove. Null: its agent keeps none.
    proved_us = models.BigIntegerField(null=True)
    reached_us = models.BigIntegerField(db_default=0)  # up to where the newest of them goes
    # What has to be given back of its last minute, and up to which metered second that was done.
    fault = models.CharField(max_length=32, blank=True, db_default="", choices=_REASONS)
    settled_s = models.IntegerField(db_default=0)
    returned_s = models.IntegerField(db_default=0)  # metered beyond what was agreed, and credited
    reconciled_at = models.DateTimeField(null=True)  # held against node records and usage

    class Meta:
        indexes = (
            models.Index(
                fields=("ended_at",), condition=Q(reconciled_at=None), name="servinginterval_due"
            ),
            models.Index(
                fields=("ended_at",), condition=~Q(fault=""), name="servinginterval_fault"
            ),
        )

    def __str__(self) -> str:
        return f"{self.replica_id} {self.started_at}"


class AsleepInterval(models.Model):
    """A stretch in which a replica slept: billed only where asleep seconds have a price."""

    id = IdField("aiv")
    replica = models.ForeignKey(Replica, on_delete=models.PROTECT, related_name="asleep")
    started_at = models.DateTimeField()
    ended_at = models.DateTimeField(null=True)
    proved_us = models.BigIntegerField(default=0)
    metered_s = models.IntegerField(default=0)

    def __str__(self) -> str:
        return f"{self.replica_id} {self.started_at}"


class LogLine(models.Model):
    """The newest lines of an engine's log, bounded per replica. Engines log no prompts."""

    id = models.BigAutoField(primary_key=True)
    replica = models.ForeignKey(Replica, on_delete=models.CASCADE, related_name="log_lines")
    number = models.BigIntegerField()  # counted by the agent, from 1
    text = models.CharField(max_length=2000)

    class Meta:
        ordering = ("number",)
        constraints = (models.UniqueConstraint(fields=("replica", "number"), name="logline_once"),)

    def __str__(self) -> str:
        return self.text


class Activity(models.Model):
    """What a gateway's worker sees of an endpoint, insert-only: scaling reads it."""

    id = models.BigAutoField(primary_key=True)
    endpoint_id = models.CharField(max_length=31)
    gateway_id = models.CharField(max_length=64)
    worker = models.PositiveSmallIntegerField(db_default=0)  # of that gateway
    in_flight = models.PositiveIntegerField()  # the most since the row before
    waiting = models.PositiveIntegerField()  # for a replica to be there at all
    # Now, of requests on replicas and of those that wait (scaling.load.Load).
    uncached_tokens = models.BigIntegerField(db_default=0)
    kv_tokens = models.BigIntegerField(db_default=0)
    running = models.PositiveIntegerField(db_default=0)
    pressed = models.BooleanField(db_default=False)  # more than is ready takes at once
    people = models.BooleanField(db_default=True)  # others than lines of batches, since then
    idle_s = models.FloatField(null=True)  # since the last answer; null while something is here
    prefill_tps = models.FloatField(null=True)  # of a replica, as the worker sees it
    at = models.DateTimeField(db_default=Now())

    class Meta:
        indexes = (
            models.Index(fields=("endpoint_id", "-at"), name="activity_recent"),
            models.Index(
                fields=("at",),
                condition=Q(waiting__gt=0) | Q(pressed=True),
                name="activity_pressed",
            ),
        )

    def __str__(self) -> str:
        return f"{self.endpoint_id} {self.in_flight}"


class Scaling(models.Model):
    """What was decided for an endpoint last, and what deciding has to remember of it.

    One look after the other: each is kept by compare-and-set on `looked_at`, so that no gap is
    added twice and no warm second counted twice.
    """

    endpoint = models.OneToOneField(
        Endpoint, primary_key=True, on_delete=models.CASCADE, related_name="scaling"
    )
    replicas = models.PositiveSmallIntegerField(default=0)
    tier = models.CharField(max_length=16, default="off")
    why = models.CharField(max_length=16, choices=_WHYS, default=Why.IDLE)
    looked_at = models.DateTimeField(null=True)
    look_at = models.DateTimeField(null=True)  # when to look again; null: now
    hinted_at = models.DateTimeField(null=True)  # by a gateway that has more than is ready
    idle_since = models.DateTimeField(null=True)  # the end of the last answer; null: busy, or never
    kept_from = models.DateTimeField(null=True)  # since then nobody asked, and nothing got ready
    gaps = models.JSONField(null=True)  # scaling.gaps.GapHistory
    capacity = models.JSONField(default=dict)  # of a replica, as last seen: scaling.load.Capacity
    warm = models.PositiveSmallIntegerField(default=0)  # so many wait warm at the cap's expense
    warm_day = models.CharField(max_length=10, blank=True)
    warm_s = models.FloatField(default=0)
    warm_euro = models.DecimalField(max_digits=20, decimal_places=9, default=0)

    def __str__(self) -> str:
        return f"{self.endpoint_id} {self.replicas} {self.tier}"


class Pulse(models.Model):
    """Proof that a part of the control plane was up: `at` now, without a gap since `since`.

    A node's silence counts only while we listened: after an outage of ours nobody is lost.
    """

    name = models.CharField(max_length=32, primary_key=True)  # "sweep", "door"
    since = models.DateTimeField()
    at = models.DateTimeField()

    def __str__(self) -> str:
        return self.name


class Alias(models.Model):
    """Another name for a project's endpoints, tried in order; `fallback_on` says what passes on."""

    id = IdField("als")
    project = models.ForeignKey(Project, on_delete=models.CASCADE, related_name="aliases")
    name = models.CharField(max_length=100)
    targets = ArrayField(models.CharField(max_length=128))  # `endpoint` or `endpoint:adapter`
    fallback_on = ArrayField(models.CharField(max_length=16), default=list)
    created_at = models.DateTimeField()

    class Meta:
        ordering = ("-id",)
        constraints = (models.UniqueConstraint(fields=("project", "name"), name="alias_name"),)

    def __str__(self) -> str:
        return self.name
