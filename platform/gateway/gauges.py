"""Figures that are looked up when somebody asks for them, rather than counted."""

import os
import resource
import time

from gateway.context import Context

_PAGE = os.sysconf("SC_PAGE_SIZE")


def of(context: Context) -> dict[str, float]:
    directory, spool = context.keeper.current, context.spool
    keys, endpoints, replicas = directory.sizes
    ours = {
        "connections": len(context.clients),
        "held": context.admission.waiting,
        "directory_generation": directory.generation,
        "directory_age_seconds": max(0.0, time.time() - context.keeper.contact_at),
        "directory_keys": keys,
        "directory_endpoints": endpoints,
        "directory_replicas": replicas,
        "replicas_out": context.pools.out,
        "spool_healthy": spool.healthy,
        "spool_open": spool.in_flight,
        "spool_backlog": spool.backlog,
    }
    if context.access is not None:
        ours["access_log_dropped_total"] = context.access.dropped
    if context.tracer is not None:
        ours["traces_dropped_total"] = context.tracer.dropped
        ours["traces_lost_total"] = context.tracer.lost
    return {f"stoa_gateway_{name}": float(value) for name, value in ours.items()} | _process()


def _process() -> dict[str, float]:
    """The names that Prometheus' own clients use."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    with open("/proc/self/statm") as statm:
        resident = int(statm.read().split()[1])
    return {
        "process_cpu_seconds_total": used.ru_utime + used.ru_stime,
        "process_resident_memory_bytes": float(resident * _PAGE),
        "process_open_fds": float(len(os.listdir("/proc/self/fd"))),
        "process_max_fds": float(resource.getrlimit(resource.RLIMIT_NOFILE)[0]),
    }
