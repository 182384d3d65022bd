"""What a request's run brings about before its request goes anywhere."""

import time

from gateway import brake, errors
from gateway.brake import DEFAULT, FINE, LIMIT, PAUSE, SLOW, STOP
from gateway.budgets import Run
from gateway.context import Context
from gateway.directory import Directory, Key
from gateway.request import Call


def look(
    context: Context, directory: Directory, key: Key, run: Run, call: Call
) -> tuple[str, float]:
    """A warning, if there is reason for one, and for how long the request has to wait.

    Raises 403 for a run that is stopped, here and now perhaps, or is beyond its project's limits,
    and 429 for one that is paused.
    """
    context.stops.check(key.project_id, run)
    project = directory.project(key.project_id)
    policy = DEFAULT if project is None else project.run_policy
    prompts = call.operation.prompts
    prompt = call.fields.get(prompts[0]) if prompts else None
    print = None if prompt is None else brake.fingerprint(memoryview(prompt))
    verdict = context.brake.look(run, policy, print, time.monotonic())
    if verdict is FINE:
        return "", 0.0
    if verdict.step == LIMIT:
        raise errors.run_limit(verdict.why)
    if verdict.step == STOP:
        context.stops.announce(key.project_id, run.refs[0], key.id)
        raise errors.run_stopped()
    if verdict.step == PAUSE:
        lines = context.gate.rate_lines(directory, key)
        raise errors.run_paused(verdict.why, verdict.wait_s, lines)
    if verdict.step == SLOW:
        return f"{verdict.why}; slowed down", policy.slow_s
    return verdict.why, 0.0
