"""The closed catalogue of audit actions. A verb that records a new one adds its line here.

Categories are those that exports map to other schemas: iam (who may do what), authentication,
resource (the life of things), fleet, billing, evidence (the log and its exports).
"""

from typing import NamedTuple


class Action(NamedTuple):
    category: str
    meaning: str


def _category(name: str, meanings: dict[str, str]) -> dict[str, Action]:
    return {action: Action(name, meaning) for action, meaning in meanings.items()}


ACTIONS: dict[str, Action] = {
    **_category(
        "iam",
        {
            "organization.create": "a tenant was made, with its account",
            "organization.update": "an organization's limits changed",
            "project.create": "a project was made",
            "project.update": "a project's limits changed",
            "user.create": "a person was given a login",
            "user.set_password": "a person's password was replaced",
            "membership.create": "a person joined an organization",
            "membership.change_role": "a member's role changed",
            "membership.delete": "a person left an organization",
            "api_key.create": "an API key was issued; its secret was shown once",
            "api_key.update": "an API key's limits, networks, priority or models changed",
            "run.stop": "a run was stopped: gateways end what is under way of it",
            "run.resume": "a stopped run may go on",
            "api_key.rotate": "an API key got a new secret; the ones before it end",
            "api_key.revoke": "an API key stopped being valid",
            "secret.create": "a project gave a secret for its sources; its value is sealed",
            "secret.replace": "a project's secret got another value",
            "secret.deliver": "a node was given a project's secret, for one fetch or start",
            "secret.delete": "a project's secret was deleted",
            "notice.create": "the operator told an organization something",
            "notice.close": "a notice was read, or no longer holds, and is shown no more",
            "secret.reseal": "secrets were sealed anew under the newest key",
        },
    ),
    **_category(
        "authentication",
        {
            "session.create": "a person signed in",
            "session.delete": "a person signed out",
            "session.refuse": "somebody failed to sign in",
        },
    ),
    **_category(
        "resource",
        {
            "endpoint.create": "an endpoint was asked for",
            "endpoint.update": "an endpoint's specification changed",
            "endpoint.rollback": "an endpoint was taken back to an earlier version",
            "rollout.promote": "a new version was given more traffic, or all, by hand",
            "rollout.abort": "a rollout was broken off: the version before serves",
            "rollout.complete": "every replica of an endpoint is of the new version",
            "rollout.fail": "a new version failed; reason and version say how it ended",
            "endpoint.scale": "an endpoint's bounds of replicas changed",
            "endpoint.burst": "workers were announced who will need replicas",
            "endpoint.start": "a stopped endpoint was started",
            "endpoint.stop": "an endpoint was stopped",
            "endpoint.share": "an endpoint was published to every organization of its region",
            "endpoint.unshare": "an endpoint was kept to its own project again",
            "endpoint.wake": "a request woke an endpoint that slept",
            "endpoint.delete": "an endpoint was deleted",
            "upload.create": "a project began to bring weights of its own",
            "upload.complete": "all files of an upload are here and are what was declared",
            "upload.delete": "an upload was removed with its files",
            "upload.expire": "an upload that nobody finished was removed with its files",
            "model.pull": "a model was asked onto the nodes of a pool",
            "model.cancel_pull": "a model that was asked onto nodes is not fetched any more",
            "adapter.load": "an endpoint's replicas were asked to load a LoRA adapter",
            "adapter.unload": "an endpoint's replicas were asked to let a LoRA adapter go",
            "alias.create": "a project's endpoints got another name",
            "alias.update": "an alias's endpoints, or when it passes on, changed",
            "alias.delete": "an alias was deleted",
            "file.create": "a project asked to have a file kept, or a batch made one",
            "file.delete": "a file was deleted, its key first",
            "file.expire": "a file's time was over, and it was deleted",
            "batch.create": "a file of requests was asked for",
            "batch.cancel": "no further request of a batch is begun",
            "batch.end": "a batch ended: completed, failed, expired or cancelled",
            "replica.place": "a replica was given its devices on a node of the region",
            "replica.ready": "a replica answered its probe and began to serve",
            "replica.start_missed": "a start took longer than is promised for its tier",
            "replica.sleep": "a replica's engine was asked to sleep: it serves nobody then",
            "replica.stop": "a replica was asked to stop",
            "replica.end": "a replica's engine ended and its devices are free",
            "replica.fail": "a replica failed",
        },
    ),
    **_category(
        "fleet",
        {
            "region.create": "a region was opened, with its certificate authority",
            "pool.create": "a pool of nodes was made",
            "pool.update": "a pool's policy changed",
            "enrollment_token.create": "a single-use token for a node was issued",
            "enrollment_token.revoke": "an enrollment token stopped being valid",
            "node.enroll": "a node exchanged its token for its certificate",
            "node.renew": "a node's certificate was renewed",
            "node.refuse": "a node was turned away",
            "node.unreachable": "a node went quiet beyond its lease",
            "node.return": "a quiet node came back",
            "node.lost": "a quiet node was given up",
            "node.cordon": "a node takes no new replicas",
            "node.uncordon": "a node takes replicas again",
            "node.drain": "a node's replicas are being moved away",
            "node.delete": "a node left the fleet; its record stays",
            "node.end_orphan": "a node ended something of ours that no record knew",
            "node.find_stranger": "a process that is not ours holds a device of a node",
            "device.prove_clean": "a node proved that nothing of an engine is left on a device",
            "device.find_dirty": "something is left on a device: nothing starts on it",
            "gateway.enroll": "a gateway was given its certificate",
        },
    ),
    **_category(
        "billing",
        {
            "account.create": "an account was opened",
            "price.create": "a new version of a price was set",
            "budget.create": "a bound was set on what somebody may spend",
            "budget.update": "a budget's amount, allowance or strictness changed",
            "budget.delete": "a budget bounds nothing any more; its counts stay",
            "budget.threshold": "80 % or all of a budget was spent in a window",
            "lease.write_off": "what a lost gateway held of budgets was freed",
            "ledger.reverse": "a ledger transaction was reversed",
            "usage.correct": "usage was corrected by a further event",
        },
    ),
    **_category(
        "evidence",
        {
            "export.request": "somebody asked for an export",
            "export.complete": "an export was built",
            "export.download": "an export was handed out",
            "event.disclose": "the personal values of an event were read",
            "event.redact": "the personal values of an event were deleted",
        },
    ),
}
