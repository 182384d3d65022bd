"""Every verb of every room, done once as the role that runs the house: each leaves its event.

A public function of a room's services that is neither walked here nor named as no verb fails the
test, so that nobody can add a way to change something that nobody hears of.
"""

import hashlib
import importlib
import inspect
import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from io import BytesIO, StringIO
from types import FunctionType, ModuleType, SimpleNamespace
from typing import Any

import pytest
from django.conf import settings
from django.core.management import call_command
from django.db import connection
from django.test import override_settings

from billing.books import ledger
from billing.models import BudgetWindow
from billing.pricing import agreements, prices
from billing.pricing.terms import Commitment
from billing.reports import margin
from billing.spending import budgets, counters, leases
from compliance import audit, exports
from compliance.actions import ACTIONS
from compliance.keys.passphrase import FileKms
from compliance.log import sequencer, subscriptions, succession
from compliance.models import AuditEvent
from controlplane.batches import files, finishing
from controlplane.batches import services as batches
from controlplane.batches.models import Batch
from controlplane.endpoints import (
    adapters,
    aliases,
    decommissioning,
    egress,
    engine_blocking,
    engine_versions,
    maintenance,
    pulls,
    quote_keeping,
    rollouts,
    uploads,
    versions,
)
from controlplane.endpoints import services as endpoints
from controlplane.endpoints.models import Endpoint, EngineVersion, Rollout, Upload
from controlplane.fleet import (
    agent_rollouts,
    health,
    placement_policy,
    replacing,
    revoking,
    silence,
    wire,
)
from controlplane.fleet import services as fleet
from controlplane.fleet.models import AgentRollout, Device, Node
from controlplane.tenancy import limits, notices, project_secrets, running
from controlplane.tenancy import services as tenancy
from tests import evidence_verbs, money_verbs, privacy_verbs, retention_verbs, signers
from tests.billing import invoice_verbs
from tests.compliance import key_verbs
from tests.fleet.machine import Machine, inventory, report
from tests.logs import settle
from tests.placement.test_models import LLAMA
from tests.signers import running as running_signer
from tests.test_layout import ROOT
from tests.verbs import EVERYWHERE, NO_VERBS, VERBS

NOW = datetime(2026, 3, 4, 12, 0, tzinfo=UTC)
WHO = audit.Actor("user", "usr_01k00000000000000000000000", "session")
PASSWORD = "correct horse battery"
CPU = wire.DeviceInfo(index=0, kind="cpu", name="CPU", memory_bytes=1 << 33)


@pytest.fixture
def app_role(db: None) -> Iterator[None]:
    call_command("grant_roles", stdout=StringIO())
    with connection.cursor() as cursor:
        cursor.execute(f"SET LOCAL ROLE {settings.APP_ROLE}")
        yield
        cursor.execute("RESET ROLE")


class Walk:
    """Does a verb after the other; what one made, the next ones use."""

    def __init__(self) -> None:
        self.walked: set[Any] = set()
        self.kept = SimpleNamespace()

    def do(self, verb: Callable[..., Any], action: str, *args: Any, **given: Any) -> Any:
        """`verb` with an actor and the time where it takes them; it must leave `action` alone."""
        takes = inspect.signature(verb).parameters
        if "actor" in takes:
            given["actor"] = WHO
        given.setdefault("now", NOW)
        before = set(AuditEvent.objects.values_list("id", flat=True))
        result = verb(*args, **given)
        (event,) = AuditEvent.objects.exclude(id__in=before)
        assert event.action == action
        assert event.outcome == "success"
        assert event.region or action in EVERYWHERE, action
        if "actor" in takes:
            assert (event.actor_type, event.actor_id) == (WHO.type, WHO.id), action
        self.walked.add(verb)
        return result

    def tenancy(self) -> None:
        kept = self.kept
        kept.user = self.do(
            tenancy.create_user, "user.create", email="ada@example.eu", password=PASSWORD
        )
        self.do(tenancy.set_password, "user.set_password", user=kept.user, password=PASSWORD[::-1])
        kept.organization = self.do(
            tenancy.create_organization,
            "organization.create",
            name="ours",
            region_code="eu-de-1",
            owner=None,
        )
        place = {"organization": kept.organization}
        kept.project = self.do(tenancy.create_project, "project.create", **place, name="agents")
        member = self.do(
            tenancy.add_member, "membership.create", **place, user=kept.user, role="developer"
        )
        member = self.do(
            tenancy.change_role, "membership.change_role", membership=member, role="auditor"
        )
        self.do(tenancy.remove_member, "membership.delete", membership=member)
        key, _ = self.do(
            tenancy.issue_key,
            "api_key.create",
            project=kept.project,
            name="ci",
            scopes=["inference"],
        )
        key, _ = self.do(tenancy.rotate_key, "api_key.rotate", key=key, overlap_s=60)
        self.do(limits.update_key, "api_key.update", key=key, requests_per_minute=60)
        self.do(limits.update_project, "project.update", project=kept.project, concurrency=8)
        self.do(running.stop_run, "run.stop", project=kept.project, run="night/one")
        self.do(running.resume_run, "run.resume", project=kept.project, run="night/one")
        self.do(limits.update_organization, "organization.update", **place, concurrency=8)
        self.do(egress.allow, "organization.allow_egress", **place, allowed=["a.example:443"])
        self.secrets()
        self.notices()
        self.do(tenancy.revoke_key, "api_key.revoke", key=key)

    def notices(self) -> None:
        said = {"subject": "a node is serviced", "text": "…", "about": audit.Target("node", "n")}
        given = {"organization": self.kept.organization, **said}
        notice = self.do(notices.tell, "notice.create", key="one", **given)
        self.do(notices.close, "notice.close", notice=notice)
        self.do(notices.tell, "notice.create", key="two", **given)
        self.do(notices.withdraw, "notice.close", about=said["about"], key="two")

    def secrets(self) -> None:
        given = {"value": {"token": "hf_x"}}
        secret = self.do(
            project_secrets.create_secret,
            "secret.create",
            project=self.kept.project,
            kind="hub",
            name="default",
            **given,
        )
        secret = self.do(project_secrets.replace_secret, "secret.replace", secret=secret, **given)
        self.do(
            project_secrets.deliver_secret,
            "secret.deliver",
            secret=secret,
            target=audit.Target("replica", "rep_x"),
        )
        with override_settings(SECRETS_KEYS={"newer": settings.MASTER_KEY}):
            self.do(project_secrets.reseal_secrets, "secret.reseal")
        self.do(project_secrets.delete_secret, "secret.delete", secret=secret)

    def fleet(self) -> None:
        kept, machine = self.kept, Machine()
        region = self.do(
            fleet.create_region, "region.create", code="eu-de-1", country="DE", name="Frankfurt"
        )
        pool = self.do(fleet.create_pool, "pool.create", region=region, name="cpu")
        _, token = self.do(fleet.issue_enrollment_token, "enrollment_token.create", pool=pool)
        node, _ = self.do(
            fleet.enroll,
            "node.enroll",
            token=token,
            csr_pem=machine.csr,
            name="n1",
            agent_version="1",
        )
        node, _ = self.do(
            fleet.renew,
            "node.renew",
            node=node,
            csr_pem=machine.csr,
            presented_sha256=node.certificate_sha256,
        )
        self.do(
            revoking.issue_gateway_certificate,
            "gateway.enroll",
            region=region,
            gateway_id="gw-1",
            csr_pem=machine.csr,
        )
        self.do(revoking.revoke_gateway, "gateway.revoke", region=region, gateway_id="gw-1")
        said = report(inventory=inventory(CPU))
        assert fleet.heartbeat(node=node, report=said, signed_at=NOW, now=NOW)
        later = NOW + timedelta(hours=1)
        self.do(silence.note, "node.unreachable", now=later, listening_since=NOW)
        for verb in ("cordon", "drain", "uncordon"):
            self.do(getattr(fleet, verb), f"node.{verb}", node=node)
        kept.node = node
        self.do(egress.open_networks, "pool.update", pool=pool, networks=["10.0.0.0/8"])
        self.keeping(node)
        self.rollouts(node)

    def keeping(self, node: Node) -> None:
        self.do(health.set_policy, "pool.update", pool=node.pool, changes={"max_share": 0.5})
        self.do(placement_policy.set_placement, "pool.update", pool=node.pool, keep_block=4)
        gpu = Device.objects.create(
            node=node, index=7, kind="gpu", name="GPU", uuid="GPU-7", memory_bytes=1
        )
        replacement = self.do(replacing.begin, "device.replace", device=gpu, reason="rows")
        self.do(replacing.cancel, "device.keep", replacement=replacement)
        window = {"starts_at": NOW, "ends_at": NOW + timedelta(hours=1)}
        planned = self.do(maintenance.plan, "maintenance.plan", node=node, **window)
        self.do(maintenance.cancel, "maintenance.cancel", maintenance=planned)
        other = Node.objects.create(
            **{"pool": node.pool, "name": "n2", "certificate_sha256": "n2", "created_at": NOW},
            certificate_expires_at=NOW,
            drain_requested_at=NOW,
        )
        self.do(maintenance.plan, "maintenance.plan", node=other, **window)
        self.do(maintenance.tend, "maintenance.start")
        leaving = self.do(decommissioning.begin, "node.decommission", node=other, reason="old")
        self.do(decommissioning.cancel, "node.decommission_cancel", decommission=leaving)
        leaving = self.do(decommissioning.begin, "node.decommission", node=other, reason="old")
        self.do(decommissioning.tend, "node.erase")
        erased = wire.Erased(
            id=leaving.id, items=[wire.ErasedItem(what="weights", path="/w", done=True)]
        )
        self.do(decommissioning.confirm, "node.erased", node=other, erased=erased)

    def rollouts(self, node: Node) -> None:
        wanted = {"pool": node.pool, "release": agent_rollouts.release(NOW)}
        begun = self.do(agent_rollouts.begin, "agent_rollout.begin", **wanted)
        AgentRollout.objects.update(state="halted")
        self.do(agent_rollouts.resume, "agent_rollout.resume", rollout=begun)
        self.do(agent_rollouts.abort, "agent_rollout.abort", rollout=begun)
        self.do(agent_rollouts.begin, "agent_rollout.begin", **wanted)
        self.do(agent_rollouts.tend, "agent_rollout.finish", listening_since=NOW)  # all by hand

    def endpoints(self) -> None:
        kept = self.kept
        spec = endpoints.EndpointSpec(
            name="chat", model="org/model", device_kind="cpu", min_replicas=0
        )
        endpoint = self.do(endpoints.create, "endpoint.create", project=kept.project, spec=spec)
        alias = self.do(
            aliases.create_alias,
            "alias.create",
            project=kept.project,
            name="gpt-4o",
            targets=["chat"],
        )
        alias = self.do(aliases.update_alias, "alias.update", alias=alias, fallback_on=[])
        self.do(aliases.delete_alias, "alias.delete", alias=alias)
        self.do(endpoints.update, "endpoint.scale", endpoint=endpoint, max_replicas=2)
        Endpoint.objects.update(engine_args={"max_loras": 4})  # else its replicas are replaced too
        poet = {"name": "poet", "path": "org/poet"}
        self.do(adapters.load, "adapter.load", endpoint=endpoint, **poet)
        self.do(adapters.unload, "adapter.unload", endpoint=endpoint, name="poet")
        self.do(endpoints.declare_burst, "endpoint.burst", endpoint=endpoint, workers=20, in_s=180)
        self.do(endpoints.share, "endpoint.share", endpoint=endpoint)
        self.do(endpoints.unshare, "endpoint.unshare", endpoint=endpoint)
        self.do(endpoints.stop, "endpoint.stop", endpoint=endpoint)
        self.do(endpoints.start, "endpoint.start", endpoint=endpoint)
        Endpoint.objects.update(wake_requested_at=None)
        self.do(endpoints.request_wake, "endpoint.wake", endpoint_id=endpoint.id)
        self.versions(endpoint)
        self.engines()
        self.do(endpoints.delete, "endpoint.delete", endpoint=endpoint)
        self.models()

    def engines(self) -> None:
        self.do(engine_versions.ship, "engine_version.add")
        given = {"engine": "vllm", "version": "0.33.1", "image": "registry.example/vllm:0.33.1"}
        with override_settings(IMAGE_REGISTRIES=["registry.example"]):
            newer = self.do(engine_versions.add, "engine_version.add", **given)
        old = EngineVersion.objects.get(version="0.32.0")
        self.do(engine_versions.deprecate, "engine_version.deprecate", version=old)
        self.do(engine_blocking.support, "engine_version.support", version=old)
        self.do(engine_blocking.block, "engine_version.block", version=newer, deadline=NOW)
        # Whoever would come to be on it is told and rolled.
        Endpoint.objects.update(engine_version="0.33.1")
        self.do(engine_blocking.tend, "notice.create", now=NOW - timedelta(1))

    def models(self) -> None:
        kept = self.kept
        pull = self.do(
            pulls.pull_model,
            "model.pull",
            project=kept.project,
            pool=kept.node.pool,
            spec=pulls.PullSpec("org/model"),
        )
        self.do(pulls.cancel_pull, "model.cancel_pull", pull=pull)
        load = {"requests_per_second": 1, "prompt_tokens": 1000, "output_tokens": 100}
        asked = {"config": LLAMA, "load": load}
        self.do(quote_keeping.create, "quote.create", project=kept.project, body=asked)
        file = {"path": "config.json", "size_bytes": 2, "sha256": hashlib.sha256(b"{}").hexdigest()}
        given = {"project": kept.project, "name": "mine", "files": [file]}
        self.do(uploads.begin_upload, "upload.create", **given)
        Upload.objects.update(expires_at=NOW)
        self.do(uploads.expire, "upload.expire")
        upload = self.do(uploads.begin_upload, "upload.create", **given)
        piece = {"number": 0, "offset": 0, "body": BytesIO(b"{}")}
        self.do(uploads.take_piece, "upload.complete", upload=upload, **piece)
        self.do(uploads.take_out, "upload.download", upload=upload, number=0, start=0)
        self.do(uploads.delete_upload, "upload.delete", upload=upload)

    def batches(self) -> None:
        project = self.kept.project
        key, _ = tenancy.issue_key(
            actor=WHO, project=project, name="night", scopes=["inference"], now=NOW
        )
        made = []
        for _ in range(2):
            upload = files.begin(actor=WHO, project=project, now=NOW)
            upload.write(b"{}\n")
            made.append(
                self.do(
                    files.create,
                    "file.create",
                    upload=upload,
                    filename="in.jsonl",
                    purpose="batch",
                )
            )
        batch = self.do(
            batches.create,
            "batch.create",
            key=key,
            input_file_id=made[0].id,
            endpoint="/v1/chat/completions",
            completion_window="24h",
        )
        self.do(batches.cancel, "batch.cancel", batch=batch)
        self.do(finishing.advance, "batch.end")
        assert Batch.objects.get().status == "cancelled"
        self.do(files.delete, "file.delete", file=made[0])
        self.do(files.expire, "file.expire", now=NOW + timedelta(days=31))

    def versions(self, endpoint: Endpoint) -> None:
        self.do(versions.change, "endpoint.update", endpoint=endpoint, changes={"revision": "a"})
        self.do(rollouts.abort, "rollout.abort", endpoint=endpoint)
        self.do(versions.change, "endpoint.update", endpoint=endpoint, changes={"revision": "b"})
        self.do(versions.roll_back, "endpoint.rollback", endpoint=endpoint, number=2)
        now = NOW + timedelta(seconds=1)
        Rollout.objects.filter(state="progressing").update(proved_at=now, replaced_at=now)
        self.do(rollouts.promote, "rollout.promote", endpoint=endpoint)
        self.do(versions.change, "endpoint.update", endpoint=endpoint, changes={"revision": "c"})
        Rollout.objects.filter(state="progressing").update(failures=3)
        self.do(rollouts.tend, "rollout.fail", listening_since=None)

    def billing(self) -> None:
        self.do(
            prices.publish,
            "price.create",
            meter="device_seconds",
            device_kind="cpu",
            amount=Decimal("0.12"),
            valid_from=NOW,
        )
        self.do(
            prices.withdraw,
            "price.withdraw",
            meter="device_seconds",
            device_kind="cpu",
            at=NOW + timedelta(days=1),
        )
        self.do(
            agreements.agree,
            "term.create",
            account_id=self.kept.organization.account_id,
            term=Commitment("", NOW.replace(day=1, month=4, hour=0), Decimal(5)),
        )
        self.do(
            margin.set_cost,
            "owned_cost.create",
            device_kind="cpu",
            amount=Decimal("0.03"),
            valid_from=NOW,
        )
        before = AuditEvent.objects.count()
        assert len(prices.publish_defaults(actor=WHO, now=NOW)) == 3
        assert AuditEvent.objects.count() == before + 3
        self.walked.add(prices.publish_defaults)
        posted = ledger.post(
            idempotency_key="k",
            kind="test",
            effective_at=NOW,
            entries=[ledger.Entry("a", 5), ledger.Entry("b", -5)],
        )
        self.do(ledger.reverse, "ledger.reverse", posted, effective_at=NOW)

    def budgets(self) -> None:
        organization = self.kept.organization.id
        budget = self.do(
            budgets.create,
            "budget.create",
            owner=budgets.Owner(organization, "eu-de-1", "organization", organization),
            unit="calls",
            amount=5,
            window="total",
        )
        place = {"budget": budget, "region": "eu-de-1"}
        self.do(budgets.update, "budget.update", **place, amount=10)
        counter = BudgetWindow.objects.create(budget=budget, window="total", spent=9)
        self.do(counters.note, "budget.threshold", counter, 80, region="eu-de-1")
        with connection.cursor() as cursor:
            asks = json.dumps([[budget.id, "total", 1, 1, 1, False]])
            cursor.execute("SELECT billing_lease('gw-1', 'e', 1, %s::jsonb)", [asks])
        self.do(leases.write_off, "lease.write_off", holder="gw-1", epoch="e")
        self.do(budgets.delete, "budget.delete", **place)

    def compliance(self) -> None:
        asked = {
            "log": self.kept.organization.id,
            "region": "eu-de-1",
            "reason": "the yearly audit",
            "start": NOW - timedelta(days=1),
            "end": NOW + timedelta(days=1),
        }
        export = self.do(exports.request, "export.request", **asked)
        with signers.running():
            settle(NOW)
            export = self.do(exports.build, "export.complete", export.id)
            evidence_verbs.walk(self)
        self.do(exports.downloaded, "export.download", export=export)
        here = {"owner": self.kept.organization.id, "region": "eu-de-1"}
        sent = {"kind": "events", "via": "webhook", "address": "https://siem.example.eu/"}
        made, _ = self.do(subscriptions.subscribe, "log.subscribe", **here, **sent)
        self.do(subscriptions.unsubscribe, "log.unsubscribe", subscription=made)
        while sequencer.sequence(NOW):
            pass
        succession.mark_restored()
        with running_signer():
            self.do(succession.succeed, "log.succeed", **here)
        self.do(revoking.revoke_node, "node.revoke", node=self.kept.node)
        self.do(fleet.remove_node, "node.delete", node=self.kept.node)


def public(module: ModuleType) -> set[FunctionType]:
    return {
        found
        for name, found in inspect.getmembers(module, inspect.isfunction)
        if not name.startswith("_") and found.__module__ == module.__name__
    }


def test_no_rooms_services_are_forgotten() -> None:
    files = [*ROOT.glob("platform/controlplane/*/services.py"), *ROOT.glob("*/services.py")]
    names = {
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removeprefix("platform.")
        for path in files
    }
    assert {importlib.import_module(name) for name in names} <= set(VERBS)


def test_every_verb_leaves_its_event(app_role: None, own_kms: FileKms) -> None:
    walk = Walk()
    walk.tenancy()
    walk.fleet()
    walk.endpoints()
    walk.batches()
    walk.billing()
    invoice_verbs.walk(walk.do, walk.kept.organization.account_id, NOW)
    walk.budgets()
    money_verbs.credit(walk)
    money_verbs.payments(walk)
    privacy_verbs.walk(walk)
    retention_verbs.walk(walk)
    walk.compliance()
    key_verbs.walk(walk.do, NOW)
    everything = {function for module in VERBS for function in public(module)}
    silent = {f"{one.__module__}.{one.__name__}" for one in everything - walk.walked - {*NO_VERBS}}
    assert silent == set(), "walk these, or say why they are no verbs"
    assert not walk.walked & {*NO_VERBS}
    assert set(NO_VERBS) <= everything
    assert set(AuditEvent.objects.values_list("action", flat=True)) <= set(ACTIONS)
