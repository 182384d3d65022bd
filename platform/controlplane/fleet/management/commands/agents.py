"""`stoa agents`: bring the agent's release to the nodes of pools, in waves."""

import json
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.utils import timezone

from compliance import audit
from controlplane.fleet import agent_rollouts, errors, waves
from controlplane.fleet.management import finding
from controlplane.fleet.models import AgentRelease, AgentRollout, Pool
from controlplane.fleet.rollout_models import OPEN

CLI = audit.Actor("system", "cli")


class Command(BaseCommand):
    help = "List rollouts of the agent; begin one in a pool or a region, resume or abort one."

    def add_arguments(self, parser: CommandParser) -> None:
        verbs = ("list", "rollout", "resume", "abort")
        policy = waves.Policy()
        parser.add_argument("verb", nargs="?", choices=verbs, default="list")
        parser.add_argument("id", nargs="?", default="", help="of the rollout to resume or abort")
        parser.add_argument("--pool", default="")
        parser.add_argument("--region", default="", help="every pool of it")
        parser.add_argument("--release", default="", help="SHA-256; else this control plane's own")
        parser.add_argument("--canary-share", type=float, default=policy.canary_share)
        parser.add_argument("--wave-size", type=int, default=policy.wave_size)
        parser.add_argument("--pause-s", type=float, default=policy.pause_s)
        parser.add_argument("--limit-s", type=float, default=policy.limit_s)
        parser.add_argument("--all", action="store_true", help="list those that are over, too")
        parser.add_argument("--json", action="store_true", help="one JSON object a line")

    def handle(self, *_: Any, **options: Any) -> None:
        rows = AgentRollout.objects.select_related("pool", "release").defer("release__content")
        try:
            if options["verb"] == "rollout":
                rows = rows.filter(pk__in=self._begin(options))
            elif options["verb"] in ("resume", "abort"):
                verb = getattr(agent_rollouts, options["verb"])
                verb(rollout=_rollout(options["id"]), actor=CLI, now=timezone.now())
                rows = rows.filter(pk=options["id"])
            elif not options["all"]:
                rows = rows.filter(state__in=OPEN)
        except errors.FleetError as error:
            raise CommandError(str(error)) from error
        for row in rows.order_by("id"):
            self._show(row, as_json=options["json"])

    def _begin(self, options: dict[str, Any]) -> list[str]:
        now = timezone.now()
        if options["pool"]:
            pools = [finding.pool(options["pool"])]
        elif options["region"]:
            region = finding.region(options["region"])
            pools = list(Pool.objects.filter(region=region).order_by("name"))
        else:
            raise CommandError("Name --pool or --region.")
        policy = waves.Policy(
            canary_share=options["canary_share"],
            wave_size=options["wave_size"],
            pause_s=options["pause_s"],
            limit_s=options["limit_s"],
        )
        release = _release(options["release"])
        made = [
            agent_rollouts.begin(pool=pool, release=release, policy=policy, actor=CLI, now=now)
            for pool in pools
        ]
        return [row.id for row in made]

    def _show(self, row: AgentRollout, *, as_json: bool) -> None:
        facts = {
            "id": row.id,
            "pool": row.pool.name,
            "version": row.release.version,
            "state": row.state,
            **agent_rollouts.counts(row, timezone.now()),
            "halt_reason": row.halt_reason,
        }
        if as_json:
            self.stdout.write(json.dumps(facts))
            return
        told = f"{facts['updated']} of {facts['nodes']} run it"
        told += "".join(
            f", {len(facts[name])} {said}"
            for name, said in (("in_flight", "under way"), ("by_hand", "by hand"))
            if facts[name]
        )
        why = f"  {row.halt_reason}" if row.halt_reason else ""
        line = f"{row.id}  {row.pool.name}  {row.release.version}  {row.state}  {told}{why}"
        self.stdout.write(line)


def _release(sha256: str) -> AgentRelease:
    if not sha256:
        return agent_rollouts.release(timezone.now())
    found = AgentRelease.objects.filter(sha256=sha256).first()
    if found is None:
        raise CommandError(f"There is no release {sha256!r} of the agent.")
    return found


def _rollout(id: str) -> AgentRollout:
    found = AgentRollout.objects.filter(pk=id).first()
    if found is None:
        raise CommandError(f"There is no rollout {id!r}.")
    return found
