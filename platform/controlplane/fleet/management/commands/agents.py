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

    def handle(self, *_: Any, **options: Any) -> None:
        try:
            if options["verb"] == "rollout":
                self._begin(options)
            elif options["verb"] in ("resume", "abort"):
                verb = getattr(agent_rollouts, options["verb"])
                verb(rollout=_rollout(options["id"]), actor=CLI, now=timezone.now())
        except errors.FleetError as error:
            raise CommandError(str(error)) from error
        rows = AgentRollout.objects.select_related("pool", "release").defer("release__content")
        if not options["all"] and options["verb"] == "list":
            rows = rows.filter(state__in=OPEN)
        for row in rows.order_by("id"):
            self._show(row)

    def _begin(self, options: dict[str, Any]) -> None:
        now = timezone.now()
        if options["pool"]:
            pools = [finding.pool(options["pool"])]
        elif options["region"]:
            region = finding.region(options["region"])
            pools = list(Pool.objects.filter(region=region).order_by("name"))
        else:
            raise CommandError("Name --pool or --region.")
        for pool in pools:
            agent_rollouts.begin(
                pool=pool,
                release=_release(options["release"]),
                policy=waves.Policy(
                    canary_share=options["canary_share"],
                    wave_size=options["wave_size"],
                    pause_s=options["pause_s"],
                    limit_s=options["limit_s"],
                ),
                actor=CLI,
                now=now,
            )

    def _show(self, row: AgentRollout) -> None:
        facts = {
            "id": row.id,
            "pool": row.pool.name,
            "version": row.release.version,
            "state": row.state,
            **agent_rollouts.counts(row, timezone.now()),
            "halt_reason": row.halt_reason,
        }
        self.stdout.write(json.dumps(facts))


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
