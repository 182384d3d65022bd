"""The rooms' modules with verbs, and which of their public functions are none and why."""

from types import ModuleType

from billing import budgets, counters, leases, ledger, prices
from billing import services as billing
from compliance import exports
from controlplane.batches import files
from controlplane.batches import services as batches
from controlplane.endpoints import (
    adapters,
    aliases,
    decommissioning,
    egress,
    engine_blocking,
    engine_versions,
    maintenance,
    pulls,
    rollouts,
    uploads,
    versions,
)
from controlplane.endpoints import services as endpoints
from controlplane.fleet import health, replacing, revoking, silence
from controlplane.fleet import services as fleet
from controlplane.tenancy import limits, notices, project_secrets, running
from controlplane.tenancy import services as tenancy

VERBS: tuple[ModuleType, ...] = (
    *(health, replacing, decommissioning, maintenance),
    *(tenancy, limits, running, project_secrets, notices, fleet, silence, revoking),
    *(egress, endpoints, aliases, adapters, pulls, uploads, files, batches),
    *(versions, rollouts, engine_versions, engine_blocking),
    *(billing, budgets, counters, leases, prices, ledger, exports),
)
NO_VERBS = {
    limits.checked: "looks",
    budgets.limit_calls: "is part of project.update; what it makes is told as a budget",
    running.reference: "computes",
    running.agent: "computes",
    running.stopped_at: "looks",
    project_secrets.find: "looks",
    notices.open_of: "looks",
    project_secrets.named: "looks",
    project_secrets.unsealed: "opens for deliver_secret, which tells",
    project_secrets.s3_service: "looks",
    aliases.refuse_shadow: "looks",
    pulls.wished: "looks",
    egress.note: "keeps what a node reports",
    egress.reached: "looks",
    uploads.place: "computes",
    pulls.note: "keeps what a node reports",
    adapters.states: "looks",
    adapters.note: "keeps what a node reports",
    versions.differences: "looks",
    silence.unreachable: "looks",
    engine_versions.shipped: "looks",
    engine_versions.choose: "looks",
    engine_versions.refuse: "looks",
    engine_versions.warnings: "looks",
    engine_versions.unsupported: "looks",
    engine_versions.image_of: "looks",
    engine_versions.from_image: "looks",
    engine_versions.wired: "computes",
    engine_versions.newest: "looks",
    engine_versions.locked: "looks",
    engine_versions.put: "is part of the verbs",
    engine_versions.tell: "is the event",
    engine_versions.checked_note: "looks",
    engine_blocking.rolls_at: "computes",
    engine_blocking.on_it: "looks",
    files.begin: "makes what nobody sees before file.create",
    files.complete: "is part of file.create, and of a batch's end",
    batches.context: "computes",
    batches.counts: "looks",
    batches.locked: "looks",
    batches.prune: "forgets batches whose files are over",
    batches.tell_end: "is the event of a batch that the runner ended",
    endpoints.heard: "passes on what a gateway says; a wake is told",
    fleet.renewal_due: "looks",
    revoking.note: "is part of a verb that takes certificates away",
    revoking.listed: "looks",
    revoking.is_revoked: "looks",
    fleet.versions: "looks",
    fleet.check: "looks",
    health.tend: "takes each step of the policy as one told cordon, drain, uncordon or replace",
    health.policy_of: "looks",
    health.decision: "looks",
    replacing.facts: "computes",
    replacing.tell: "is the event of a device's step",
    decommissioning.wish: "looks",
    maintenance.concerned: "looks",
    fleet.locked: "looks",
    fleet.leaving: "looks",
    fleet.touch: "raises the version that another verb's change needs",
    fleet.heartbeat: "comes every few seconds; silence and return are told",
    billing.open_account: "is part of organization.create, which names the account",
    billing.accrue: "books what the clock makes due; the ledger is its own record",
    billing.unaccrued: "looks",
    billing.newest_accrual: "looks",
    billing.hour_start: "computes",
    counters.current: "looks",
    counters.single: "looks",
    counters.of: "looks",
    counters.statuses: "looks",
    counters.outstanding: "looks",
    counters.crossed: "looks",
    counters.prune: "forgets runs that are over",
    leases.open_leases: "looks",
    leases.holdings: "looks",
    prices.versions: "looks",
    prices.in_force: "looks",
    ledger.post: "is the ledger's own record",
    ledger.balance: "looks",
    exports.register: "happens as a room loads",
    exports.build_waiting: "builds; each export tells of itself",
    exports.archive: "looks",
}

# What is not of one region.
EVERYWHERE = {
    *("user.create", "user.set_password", "price.create", "ledger.reverse"),
    "lease.write_off",
    "secret.reseal",
    *(f"engine_version.{verb}" for verb in ("add", "deprecate", "block", "support")),
}
