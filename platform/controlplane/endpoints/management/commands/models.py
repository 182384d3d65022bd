"""`stoa models pull MODEL`: have a model on a pool's nodes before anybody needs it; and
`stoa models upload FOLDER`, which is upload_client's."""

import json
import sys
import time
from argparse import ArgumentParser, Namespace
from typing import Any

from django.core.management.base import BaseCommand, CommandError
from django.utils import timezone
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

from compliance import audit
from controlplane.endpoints import pulls, upload_client
from controlplane.endpoints.models import Pull, PullNode
from controlplane.fleet.models import Pool
from controlplane.fleet.wire import PullState
from controlplane.tenancy.errors import TenancyError
from controlplane.tenancy.models import Project

LOOK_EVERY_S = 0.5


class Command(BaseCommand):
    help = "Bring models: into the caches of a pool's nodes, or from a folder to the platform."

    def add_arguments(self, parser: ArgumentParser) -> None:
        verbs = parser.add_subparsers(dest="verb", required=True)
        pull = verbs.add_parser("pull", help="have a model in the caches of a pool's nodes")
        pull.add_argument("model", help="org/name, s3://bucket/folder or an upload's id")
        pull.add_argument("--project", required=True, help="whose secrets open it: prj_…")
        pull.add_argument("--pool", required=True, help="whose nodes get it: pool_… or its name")
        pull.add_argument("--source", default="", help="hub, mirror, s3 or upload; else the hub")
        pull.add_argument("--revision", default="")
        pull.add_argument("--secret", default="", help="the project's, by name")
        pull.add_argument("--no-wait", action="store_true", help="do not wait for the nodes")
        pull.add_argument("--json", action="store_true", help="a line of JSON for each change")
        upload = verbs.add_parser("upload", help="send weights of one's own, or go on with it")
        upload_client.add_arguments(upload)

    def handle(self, *_: Any, **options: Any) -> None:
        if options["verb"] == "upload":
            try:
                upload_client.upload(Namespace(**options), sys.stdout)
            except upload_client.UploadError as error:
                raise CommandError(str(error)) from error
            return
        pull = self._wish(options)
        if options["no_wait"]:
            self.stdout.write(json.dumps(_told(pull)) if options["json"] else pull.id)
            return
        told = self._lines(pull) if options["json"] else self._bars(pull)
        failed = [row for row in told if row.state == PullState.FAILED]
        if failed:
            raise CommandError("; ".join(f"{row.node.name}: {row.detail}" for row in failed))

    def _wish(self, options: dict[str, Any]) -> Pull:
        project = Project.objects.filter(id=options["project"]).first()
        if project is None:
            raise CommandError(f"no such project: {options['project']}")
        wanted = options["pool"]
        pool = Pool.objects.filter(id=wanted).first() or Pool.objects.filter(name=wanted).first()
        if pool is None:
            raise CommandError(f"no such pool: {wanted}")
        spec = pulls.PullSpec(
            **{name: options[name] for name in ("model", "source", "revision", "secret")}
        )
        try:
            return pulls.pull_model(
                actor=audit.SYSTEM, project=project, pool=pool, spec=spec, now=timezone.now()
            )
        except TenancyError as error:
            raise CommandError(str(error)) from error

    def _lines(self, pull: Pull) -> list[PullNode]:
        last = ""
        while True:
            rows = _rows(pull)
            line = json.dumps(_told(pull))
            if line != last:
                self.stdout.write(line)
                last = line
            if _over(rows):
                return rows
            time.sleep(LOOK_EVERY_S)

    def _bars(self, pull: Pull) -> list[PullNode]:
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            DownloadColumn(),
            TransferSpeedColumn(),
        )
        with Progress(*columns, console=Console()) as shown:
            bars = {row.id: shown.add_task(row.node.name, total=None) for row in _rows(pull)}
            while True:
                rows = _rows(pull)
                for row in rows:
                    shown.update(
                        bars[row.id],
                        description=f"{row.node.name} {row.state}",
                        completed=row.bytes_done,
                        total=row.bytes_total or None,
                    )
                if _over(rows):
                    return rows
                time.sleep(LOOK_EVERY_S)


def _rows(pull: Pull) -> list[PullNode]:
    return list(pull.nodes.select_related("node").order_by("id"))


def _over(rows: list[PullNode]) -> bool:
    return all(row.state in pulls.OVER for row in rows)


def _told(pull: Pull) -> dict[str, Any]:
    names = ("state", "bytes_done", "bytes_total", "revision", "reason", "detail")
    nodes = [
        {"node": row.node.name, **{name: getattr(row, name) for name in names}}
        for row in _rows(pull)
    ]
    return {"id": pull.id, "model": pull.model, "nodes": nodes}
