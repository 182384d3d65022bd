"""A report in one statement: the node lives, its seconds are counted, and here is what it holds.

The next report says the same and more, so this one waits for no disk; what `reports.act` finds to
do is committed as everything else.

Most reports say what the one before said. What this statement does not settle (a certificate
that is being replaced, a report that came late, an inventory, findings, models that are being
brought or were read, what a node did by itself, a node that was removed or hosts gangs) is for the
longer way:
`fleet.credentials.verify`, `fleet.services.heartbeat`, `reports.apply` and `gangs.hear`.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from django.conf import settings
from django.db import DEFAULT_DB_ALIAS, connection

from controlplane.commits import UNFLUSHED
from controlplane.endpoints import reports
from controlplane.endpoints.models import Replica
from controlplane.endpoints.states import COMING, State
from controlplane.fleet import services, wire
from controlplane.fleet.credentials import Caller

# In these nothing serves yet, or what served is being settled with the way back to ready.
_UNCOUNTED = [state.value for state in COMING | {State.UNREACHABLE}]


@dataclass(frozen=True)
class Heard:
    certificate_expires_at: datetime


def hear(
    caller: Caller, report: wire.Report, *, signed_at: datetime, now: datetime
) -> Heard | None:
    """Take the newest report of a node into account; None where that needs the longer way.

    Raises InvalidReport.
    """
    if report.inventory is not None or report.pulls or report.events or report.findings:
        return None
    if report.models:
        return None
    services.check(report)
    with connection.cursor() as cursor:
        cursor.execute(_STATEMENT, _values(caller, report, signed_at, now))
        rows = cursor.fetchall()
    if not rows:
        return None
    held = (_replica(row[2:]) for row in rows if row[2])
    reports.act(held, report, now)
    return Heard(certificate_expires_at=rows[0][0])


def _replica(row: Sequence[Any]) -> Replica:
    read = [
        value if load is None else load(value, None, connection)
        for value, load in zip(row, _LOADS, strict=True)
    ]
    return Replica.from_db(DEFAULT_DB_ALIAS, _COLUMNS, read)


def _values(
    caller: Caller, report: wire.Report, signed_at: datetime, now: datetime
) -> dict[str, Any]:
    ids, counts = _counts(report.replicas)
    return {
        "node": caller.node_id,
        "shown": caller.certificate_sha256,
        "boot": report.boot_id,
        "seq": report.seq,
        "version": report.agent_version,
        "signed": signed_at,
        "now": now,
        "until": now + timedelta(seconds=settings.NODE_LEASE_S),
        "ids": ids,
        "counts": counts,
        "uncounted": _UNCOUNTED,
    }


def _counts(replicas: Iterable[wire.ReplicaReport]) -> tuple[list[str], list[float]]:
    said = {one.replica_id: reports.seconds(one.ready_s) for one in replicas}
    return list(said), list(said.values())


# In the order of the model, as `from_db` wants them; the id comes first.
_FIELDS = [one for one in Replica._meta.concrete_fields if one.attname in reports.KNOWN]
_COLUMNS = [one.attname for one in _FIELDS]
_LOADS = [getattr(one, "from_db_value", None) for one in _FIELDS]  # JSON comes as text
_STATEMENT = f"""
WITH heard AS (
    UPDATE fleet_node
    SET boot_id = %(boot)s, report_seq = %(seq)s, report_signed_at = %(signed)s,
        heartbeat_at = %(now)s, lease_until = %(until)s, agent_version = %(version)s
    WHERE id = %(node)s AND removed_at IS NULL AND NOT in_gangs AND NOT has_findings
      AND certificate_sha256 = %(shown)s AND previous_certificate_sha256 = ''
      AND CASE WHEN boot_id = %(boot)s THEN report_seq < %(seq)s
               ELSE report_signed_at IS NULL OR report_signed_at <= %(signed)s END
    RETURNING id, certificate_expires_at
), held AS (
    SELECT {", ".join(f"r.{name}" for name in _COLUMNS)}
    FROM endpoints_replica r JOIN heard ON r.node_id = heard.id
    WHERE r.released_at IS NULL
), counted AS ({
    reports.COUNT.format(
        whose='''
    JOIN held ON held.id = v.replica_id AND held.state <> ALL (%(uncounted)s)
'''
    )
})
SELECT heard.certificate_expires_at, {UNFLUSHED},
       {", ".join(f"held.{name}" for name in _COLUMNS)}
FROM heard LEFT JOIN held ON true
ORDER BY held.endpoint_id, held.id
"""
