"""What the control plane has and lacks, each lack with its cure: what `stoa doctor` says.

Settings are looked at as they are, stores by using them. Nothing is changed.
"""

import shutil
from datetime import datetime, timedelta
from pathlib import Path
from urllib.parse import urlsplit

from cryptography import x509
from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.db import DatabaseError, connection
from django.db.migrations.loader import MigrationLoader
from django.utils import timezone
from kombu import Connection
from kombu.exceptions import OperationalError

from billing.books import closing, reconciliation
from compliance import sealing
from compliance.erasure.models import UNDER_WAY, Erasure
from compliance.subject_requests import services as subject_requests
from controlplane.endpoints import observe
from controlplane.endpoints.models import Pulse
from controlplane.fleet import issuance
from controlplane.fleet.models import Device, Node, Region
from workers import keykeeping, logkeeping, stripe_doctor
from workers.agent.checks.finding import Finding
from workers.backup import health as backup_health

AUTHORITY_LEFT = timedelta(days=30)
CLOCK_OFF_S = 1.0
BROKER_TIMEOUT_S = 5
DISK_WANTED_BYTES = 5 << 30
_LOCAL = {"localhost", "127.0.0.1", "[::1]", "::1"}


def findings(now: datetime) -> list[Finding]:
    """In the order in which to put them right: without a database the rest says nothing."""
    found = [*_settings(), _master_key(), _broker(), _disk()]
    database = _database()
    found += database
    if any(one.ok for one in database if one.check == "migrations"):
        found += [*_pulses(now), *_regions(now), *_nodes(now), _books(now)]
        found += [*logkeeping.findings(now), *stripe_doctor.findings(now)]
        found += [_requests(now), _erasures()]
        found += [*logkeeping.findings(now), keykeeping.finding(now), *stripe_doctor.findings(now)]
        local = not set(settings.ALLOWED_HOSTS) - _LOCAL
        found += backup_health.findings(now, local=local)
    return found


def _settings() -> list[Finding]:
    outside = set(settings.ALLOWED_HOSTS) - _LOCAL
    if not outside:
        return [Finding("tls", True, "this installation answers on this machine alone")]
    cure = "put a proxy with TLS in front (deploy/RUNBOOK.md) and set STOA_TLS=true"
    found = [Finding("tls", settings.TLS, f"for {', '.join(sorted(outside))}", cure)]
    local = urlsplit(settings.AGENTS_URL).hostname in _LOCAL
    cure = "set STOA_AGENTS_URL to where nodes reach the agents' door"
    found.append(Finding("agents' address", not local, settings.AGENTS_URL, cure))
    weak = [
        name
        for name, value in (
            ("STOA_SECRET_KEY", settings.SECRET_KEY),
            ("STOA_KEY_PEPPER", settings.KEY_PEPPER),
        )
        if len(value) < 32
    ]
    text = f"shorter than 32 characters: {', '.join(weak)}" if weak else "long enough"
    cure = "draw new ones (openssl rand -base64 48); deploy/RUNBOOK.md says what that ends"
    return [*found, Finding("secrets", not weak, text, cure)]


def _master_key() -> Finding:
    try:
        sealing.seal(b"", context="doctor")
    except ImproperlyConfigured as error:
        return Finding("master key", False, str(error), "set it as deploy/RUNBOOK.md says")
    return Finding("master key", True, "of the right form")


def _database() -> list[Finding]:
    try:
        with connection.cursor() as cursor:
            before = timezone.now()
            cursor.execute(
                "SELECT current_setting('server_version'), clock_timestamp(), rolsuper"
                " FROM pg_roles WHERE rolname = current_user"
            )
            version, theirs, superuser = cursor.fetchone()
            after = timezone.now()
        waiting = _unapplied()
    except DatabaseError as error:
        cure = "start PostgreSQL, and see DATABASE_URL"
        return [Finding("database", False, str(error).splitlines()[0], cure)]
    # Somewhere between our asking and its answer.
    off_s = max(0.0, (before - theirs).total_seconds(), (theirs - after).total_seconds())
    text = f"PostgreSQL {version}, its clock within {off_s:.1f} s of this machine's"
    cure = "start an NTP service on both machines"
    figures = {"clock_offset_s": round(off_s, 3)}
    found = [Finding("database", off_s < CLOCK_OFF_S, text, cure, figures=figures)]
    text = "it is the superuser, whom no trigger and no grant holds" if superuser else "lesser"
    cure = "name the role of `stoa grant_roles` in DATABASE_URL"
    found.append(Finding("database role", not superuser, text, cure))
    text = f"not applied: {', '.join(waiting[:5])}" if waiting else "all applied"
    return [*found, Finding("migrations", not waiting, text, "run `stoa migrate`")]


def _unapplied() -> list[str]:
    loader = MigrationLoader(connection)
    return sorted(
        f"{app}.{name}"
        for app, name in loader.graph.nodes.keys() - loader.applied_migrations.keys()
    )


def _broker() -> Finding:
    try:
        with Connection(settings.BROKER_URL, connect_timeout=BROKER_TIMEOUT_S) as broker:
            broker.ensure_connection(max_retries=1, timeout=BROKER_TIMEOUT_S)
    except (OperationalError, OSError) as error:
        return Finding("broker", False, str(error), "start the broker, and see BROKER_URL")
    return Finding("broker", True, "it answers")


def _disk() -> Finding:
    folder = Path(settings.UPLOADS_DIR)
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    text = f"{free / (1 << 30):.0f} GiB free at {folder}"
    return Finding("uploads disk", free >= DISK_WANTED_BYTES, text, "free some, or move it")


def _pulses(now: datetime) -> list[Finding]:
    """Who beats while he is up: the sweep of the workers, and the door of the agents."""
    cures = {
        "sweep": "start the worker and its beat (celery -A workers.celery)",
        "door": "start the door of the agents (stoa agents_door)",
    }
    beats = {pulse.name: now - pulse.at for pulse in Pulse.objects.all()}
    found = []
    for name, cure in cures.items():
        quiet = beats.get(name)
        up = quiet is not None and quiet <= timedelta(seconds=observe.pulse_gap_s())
        text = "never heard of"
        if quiet is not None:
            text = f"last heard {max(0.0, quiet.total_seconds()):.0f} s ago"
        found.append(Finding(name, up, text, cure))
    return found


def _regions(now: datetime) -> list[Finding]:
    found = []
    for region in Region.objects.order_by("code"):
        ends = x509.load_pem_x509_certificate(region.ca_certificate.encode()).not_valid_after_utc
        fit, text = ends - now > AUTHORITY_LEFT, f"good until {ends:%Y-%m-%d}"
        cure = "open a region anew and enrol its nodes again (deploy/RUNBOOK.md)"
        try:
            issuance.opened(region)
        except (sealing.SealBroken, ImproperlyConfigured):
            fit, text = False, "STOA_MASTER_KEY does not open its key: no node gets a certificate"
            cure = "put back the master key that this database was sealed under"
        found.append(Finding(f"authority {region.code}", fit, text, cure))
    return found or [Finding("regions", False, "there is none", "run `stoa create_region`")]


def _books(now: datetime) -> Finding:
    """What the newest reconciliation of the ledger found."""
    last = reconciliation.newest()
    if last is None:
        return Finding("books", True, "not reconciled yet")
    old = now - last.at > closing.FRESH
    text = f"reconciled on {last.at:%Y-%m-%d %H:%M}, {len(last.findings)} differences"
    if last.findings:
        text += f"; first: {last.findings[0]['text']}"
    cure = "see `stoa billing reconcile` and docs/ledger.md; is the beat running?"
    return Finding("books", not old and not last.findings, text, cure)


def _requests(now: datetime) -> Finding:
    """Whether each data subject was answered in time."""
    late = list(subject_requests.overdue(now))
    text = "none is overdue"
    if late:
        text = f"{len(late)} overdue; first: {late[0].id}, a {late[0].type}, due {late[0].due_on}"
    return Finding("data subjects", not late, text, "answer them: the console's page Requests")


def _erasures() -> Finding:
    stopped = list(Erasure.objects.filter(state__in=UNDER_WAY).exclude(failure="").order_by("id"))
    text = f"{stopped[0].id}: {stopped[0].failure}" if stopped else "none is stopped"
    return Finding("erasures", not stopped, text, "see its findings, and docs/erasure.md")


def _nodes(now: datetime) -> list[Finding]:
    nodes = list(Node.objects.filter(removed_at=None).defer("inventory"))
    if not nodes:
        return [Finding("nodes", False, "none has joined", "run `stoa enrollment_token`")]
    quiet = [node.name for node in nodes if not node.reachable(now)]
    text = f"{len(nodes) - len(quiet)} of {len(nodes)} are heard"
    if quiet:
        text += f"; quiet: {', '.join(sorted(quiet)[:5])}"
    cure = "see the agent's log on it, and `stoa-agent doctor`"
    found = [Finding("nodes", not quiet, text, cure)]
    sick = Device.objects.filter(node__in=nodes, healthy=False).select_related("node")
    named = sorted(f"{device.node.name} {device}" for device in sick)
    text = f"unhealthy: {', '.join(named[:5])}" if named else "all healthy"
    return [*found, Finding("devices", not named, text, "see the findings of their nodes")]
