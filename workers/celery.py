"""The Celery application: it carries hints and keeps the beat, and nothing depends on its memory.

Every task is idempotent and reads the truth from PostgreSQL, so a task that is lost, doubled or
killed half-way costs a moment at most: the next sweep finds what is left to do. The same settings
work over Valkey, Redis and RabbitMQ.
"""

import ctypes
import logging
import os
import signal
from urllib.parse import urlsplit

from celery import Celery
from celery.signals import beat_embedded_init, worker_process_init

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "controlplane.settings")

from django.conf import settings

TASK_SOFT_LIMIT_S = 60
TASK_LIMIT_S = 90
# Beyond it the broker hands a message out again: longer than a task may wait and run.
VISIBILITY_S = 4 * TASK_LIMIT_S
HINT_EXPIRES_S = 60
# A broker that is away must not hold up whoever only wants to leave a hint.
CONNECT_TIMEOUT_S = 1.0
ANSWER_TIMEOUT_S = 3.0  # beyond the second that a worker lets the broker wait for news
PRUNE_EVERY_S = 300.0
RETAIN_EVERY_S = 300.0
NODES_EVERY_S = 5.0
ACCRUE_EVERY_S = 60.0
PROVE_EVERY_S = 300.0
EXPORTS_EVERY_S = 5.0
KEYS_EVERY_S = 60.0
SEQUENCE_EVERY_S = 1.0
HEADS_EVERY_S = 5.0
DELIVER_EVERY_S = 5.0
BUDGETS_EVERY_S = 20.0
STRIPE_EVERY_S = 5.0
STRIPE_SLOWLY_EVERY_S = 300.0
MONTH_EVERY_S = 60.0
TOP_UPS_EVERY_S = 60.0
ENGINES_EVERY_S = 60.0
BOOKS_EVERY_S = 900.0  # looks whether the day's work on the books is done
UPKEEP_EVERY_S = 3600.0
ERASURES_EVERY_S = 30.0
JOURNAL_EVERY_S = 5.0
BACKUP_EVERY_S = 60.0
_PR_SET_PDEATHSIG = 1  # of prctl(2)


def transport_options(broker_url: str) -> dict[str, object]:
    """What each kind of broker needs so that it neither hangs a sender nor keeps a dead one's task.

    The two `unacked_restore` options bring a killed worker's message back after the visibility
    time-out instead of minutes later.
    """
    if urlsplit(broker_url).scheme.startswith("amqp"):
        return {"confirm_publish": True, "max_retries": 0, "connect_timeout": CONNECT_TIMEOUT_S}
    return {
        "visibility_timeout": VISIBILITY_S,
        "unacked_restore_interval": 1,
        "unacked_restore_throttle": 1,
        "socket_connect_timeout": CONNECT_TIMEOUT_S,
        "socket_timeout": ANSWER_TIMEOUT_S,
        "socket_keepalive": True,
        "max_retries": 0,
    }


def _every(task: str, seconds: float) -> dict[str, object]:
    # What could not run in time is of no use later: a backlog of it must not pile up.
    return {
        "task": f"workers.tasks.{task}",
        "schedule": seconds,
        "options": {"expires": max(1.0, seconds)},
    }


def _backups() -> dict[str, dict[str, object]]:
    """Looks for what is due; nothing where backups are off."""
    if not os.environ.get("STOA_BACKUP_DIR"):
        return {}
    return {
        "keep_journal": _every("keep_journal", JOURNAL_EVERY_S),
        "begin_backup": _every("begin_backup", BACKUP_EVERY_S),
    }


app = Celery("stoa")
app.conf.update(
    broker_url=settings.BROKER_URL,
    broker_transport_options=transport_options(settings.BROKER_URL),
    broker_connection_retry_on_startup=True,
    broker_connection_max_retries=None,
    broker_connection_timeout=CONNECT_TIMEOUT_S,
    imports=("workers.tasks",),
    task_default_queue=settings.QUEUE,
    accept_content=["json"],
    task_serializer="json",
    task_ignore_result=True,
    result_backend=None,
    task_acks_late=True,
    task_reject_on_worker_lost=True,
    worker_prefetch_multiplier=1,
    worker_cancel_long_running_tasks_on_connection_loss=True,
    task_soft_time_limit=TASK_SOFT_LIMIT_S,
    task_time_limit=TASK_LIMIT_S,
    task_publish_retry=False,
    timezone="UTC",
    beat_schedule={
        "sweep": _every("sweep", settings.SWEEP_EVERY_S),
        "meter": _every("meter", settings.METER_EVERY_S),
        "tend_nodes": _every("tend_nodes", NODES_EVERY_S),
        "accrue": _every("accrue", ACCRUE_EVERY_S),
        "prove": _every("prove", PROVE_EVERY_S),
        "tend_budgets": _every("tend_budgets", BUDGETS_EVERY_S),
        "tend_stripe": _every("tend_stripe", STRIPE_EVERY_S),
        "tend_stripe_slowly": _every("tend_stripe_slowly", STRIPE_SLOWLY_EVERY_S),
        "close_month": _every("close_month", MONTH_EVERY_S),
        "tend_top_ups": _every("tend_top_ups", TOP_UPS_EVERY_S),
        "tend_books": _every("tend_books", BOOKS_EVERY_S),
        "tend_engines": _every("tend_engines", ENGINES_EVERY_S),
        "sequence": _every("sequence", SEQUENCE_EVERY_S),
        "sign_heads": _every("sign_heads", HEADS_EVERY_S),
        "deliver_logs": _every("deliver_logs", DELIVER_EVERY_S),
        "build_exports": _every("build_exports", EXPORTS_EVERY_S),
        "tend_erasures": _every("tend_erasures", ERASURES_EVERY_S),
        "tend_keys": _every("tend_keys", KEYS_EVERY_S),
        "prune": _every("prune", PRUNE_EVERY_S),
        "retain": _every("retain", RETAIN_EVERY_S),
        "keep_records": _every("keep_records", UPKEEP_EVERY_S),
        "upkeep": _every("upkeep", UPKEEP_EVERY_S),
        **_backups(),
    },
)


@beat_embedded_init.connect
@worker_process_init.connect
def _die_with_the_worker(**_: object) -> None:
    """After a kill -9 of the worker a beat would beat on beside its successor, and a process of
    the pool wait for ever on a pipe that its siblings hold open."""
    parent = os.getppid()
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)  # it died in between


# Several lines a second that say only that the beat goes on.
for _noisy in ("celery.beat", "celery.worker.strategy", "celery.app.trace"):
    logging.getLogger(_noisy).setLevel(logging.WARNING)
