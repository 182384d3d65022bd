"""The runaway brake: its steps, and that who waits is let go."""

from dataclasses import dataclass

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway import brake, table
from gateway.brake import LIMIT, NONE, PAUSE, SLOW, STOP, WARN, Brake, RunPolicy, Steps
from gateway.budgets import Run
from gateway.directory import Project, RateLimits
from gateway.table import Slots
from tests.gateway.rig import KEY, ORGANIZATION, PROJECT, Rig

RUN = Run(("run_root", "run_leaf"))
STEPS = Steps(warn=5, slow=10, pause=15, stop=20)


@dataclass
class Driver:
    """Calls at an even pace; each with a prompt of its own unless told."""

    brake: Brake
    now: float = 1000.0
    number: int = 0

    def call(self, policy: RunPolicy, after_s: float = 0.0, prompt: int | None = None) -> int:
        self.now += after_s
        self.number += 1
        prompt = self.number if prompt is None else prompt
        return self.brake.look(RUN, policy, prompt, self.now).step


def watch(slots: int = 64) -> Brake:
    return Brake(Slots(table.create(slots)))


@pytest.fixture
def driver() -> Driver:
    return Driver(watch())


def test_the_rate_of_calls_goes_through_all_steps(driver: Driver) -> None:
    policy = RunPolicy(calls_per_minute=STEPS)
    steps = [driver.call(policy) for _ in range(20)]
    assert steps == [NONE] * 4 + [WARN] * 5 + [SLOW] * 5 + [PAUSE] * 5 + [STOP]
    assert driver.call(policy, after_s=200) == NONE


def test_an_even_pace_below_the_limit_is_never_braked(driver: Driver) -> None:
    policy = RunPolicy(calls_per_minute=Steps(warn=62))
    assert {driver.call(policy, after_s=1.0) for _ in range(1000)} == {NONE}


def test_prompts_that_come_again(driver: Driver) -> None:
    policy = RunPolicy(calls_per_minute=Steps(), repeats=STEPS)
    assert max(driver.call(policy) for _ in range(50)) == NONE  # they differ
    steps = [driver.call(policy, prompt=-1) for _ in range(20)]
    assert steps == [NONE] * 4 + [WARN] * 5 + [SLOW] * 5 + [PAUSE] * 5 + [STOP]


def test_money_and_depth(driver: Driver) -> None:
    policy = RunPolicy(eur_per_minute=Steps(slow=0.5, pause=1.0))
    assert driver.call(policy) == NONE
    driver.brake.paid(RUN, 600_000_000, driver.now)
    assert driver.call(policy) == SLOW
    driver.brake.paid(RUN, 600_000_000, driver.now)
    verdict = driver.brake.look(RUN, policy, 0, driver.now)
    assert (verdict.step, verdict.why) == (PAUSE, "1.20 EUR in a minute")
    assert driver.call(policy, after_s=verdict.wait_s + 0.001) == SLOW
    assert driver.call(RunPolicy(depth=Steps(pause=2))) == PAUSE
    assert driver.call(RunPolicy(max_depth=1)) == LIMIT


def test_a_run_takes_no_longer_than_it_may(driver: Driver) -> None:
    policy = RunPolicy(max_seconds=60)
    assert [driver.call(policy, after_s=30) for _ in range(4)] == [NONE, NONE, NONE, LIMIT]


calls = st.lists(
    st.tuples(st.floats(0, 120), st.integers(0, 3), st.integers(0, 10**9)), max_size=60
)
limit = st.none() | st.floats(0.5, 30)
steps = st.builds(Steps, warn=limit, slow=limit, pause=limit, stop=limit)
policies = st.builds(
    RunPolicy, calls_per_minute=steps, eur_per_minute=steps, depth=steps, repeats=steps
)


@given(calls, policies)
def test_only_a_pause_says_how_long(calls: list[tuple[float, int, int]], policy: RunPolicy) -> None:
    watched, now = watch(), 0.0
    for after_s, prompt, nano_eur in calls:
        now += after_s
        verdict = watched.look(RUN, policy, prompt, now)
        watched.paid(RUN, nano_eur, now)
        assert verdict.wait_s >= 0
        assert (verdict.step == NONE) == (verdict.why == "")
        assert verdict.step == PAUSE or verdict.wait_s == 0


@pytest.mark.parametrize("measure", ["calls_per_minute", "repeats"])
@given(calls=calls, pause=st.floats(2, 30))
def test_who_waits_out_a_pause_is_let_go(
    measure: str, calls: list[tuple[float, int, int]], pause: float
) -> None:
    watched, now = watch(), 0.0
    policy = msgspec.structs.replace(RunPolicy(), **{measure: Steps(pause=pause)})
    for after_s, prompt, _ in calls:
        now += after_s
        verdict = watched.look(RUN, policy, prompt, now)
        if verdict.step == PAUSE:
            now += verdict.wait_s + 0.001
            assert watched.look(RUN, policy, prompt, now).step < PAUSE


@given(calls, policies, st.floats(0.1, 1.0))
def test_a_stricter_policy_is_never_milder(
    calls: list[tuple[float, int, int]], policy: RunPolicy, share: float
) -> None:
    def tightened(steps: Steps) -> Steps:
        values = msgspec.structs.asdict(steps)
        return Steps(**{name: v and v * share for name, v in values.items()})

    names = ("calls_per_minute", "eur_per_minute", "depth", "repeats")
    strict = msgspec.structs.replace(
        policy, **{name: tightened(getattr(policy, name)) for name in names}
    )
    one, other, now = watch(), watch(), 0.0
    for after_s, prompt, nano_eur in calls:
        now += after_s
        assert one.look(RUN, policy, prompt, now).step <= other.look(RUN, strict, prompt, now).step
        one.paid(RUN, nano_eur, now)
        other.paid(RUN, nano_eur, now)


def test_memory_is_bounded_and_who_called_last_is_known_longest() -> None:
    watched, policy = watch(slots=32), RunPolicy(calls_per_minute=Steps(warn=2))
    names = [f"run_{number}" for number in range(100)]
    for at, name in enumerate(names):
        watched.look(Run((name,)), policy, None, float(at))
    assert watched.look(Run((names[0],)), policy, None, 99.0).step == NONE
    assert watched.look(Run((names[99],)), policy, None, 99.0).step == WARN


def test_workers_count_a_run_together() -> None:
    memory = table.create(64)
    workers = [Brake(Slots(memory)) for _ in range(4)]
    policy = RunPolicy(
        calls_per_minute=Steps(warn=8), eur_per_minute=Steps(pause=1), repeats=Steps(stop=3)
    )
    steps = [workers[at % 4].look(RUN, policy, at, 1.0).step for at in range(8)]
    assert steps == [NONE] * 7 + [WARN]
    assert [workers[at].look(RUN, policy, -1, 300.0).step for at in range(3)] == [NONE, NONE, STOP]
    for worker in workers:
        worker.paid(RUN, 300_000_000, 400.0)
    assert workers[0].look(RUN, policy, 9, 400.0).step == PAUSE
    assert workers[1].look(RUN, RunPolicy(max_seconds=300), 9, 402.0).step == LIMIT


def test_fingerprints_tell_prompts_apart_by_their_end_and_length() -> None:
    long = b"x" * 5000
    assert brake.fingerprint(long + b"a") == brake.fingerprint(b"y" + long + b"a")
    assert brake.fingerprint(long + b"a") != brake.fingerprint(long + b"b")
    assert brake.fingerprint(long + b"a") != brake.fingerprint(long * 2 + b"a")


def chat(rig: Rig, run: str, text: str = "again") -> tuple[int, dict[str, str], str]:
    body = {"model": "tiny", "messages": [{"role": "user", "content": text}], "user": "tokens=1"}
    with rig.connect() as client:
        client.post("/v1/chat/completions", body, key=KEY, headers={"x-stoa-run": run})
        reply = client.response()
    return reply.status, reply.headers, reply.error["code"] if reply.status != 200 else ""


def test_a_runaway_run_is_warned_slowed_paused_and_stopped(rig: Rig) -> None:
    rig.key(rate_limits=RateLimits(requests_per_minute=1000))
    rig.endpoint("tiny", [rig.engine("ep_tiny")])
    policy = RunPolicy(slow_s=0.2, repeats=Steps(warn=1.5, slow=2.5, pause=3.5, stop=4.5))
    rig.projects[PROJECT] = Project(PROJECT, ORGANIZATION, run_policy=policy)
    rig.publish()
    status, headers, _ = chat(rig, "loop")
    assert status == 200 and "x-stoa-warning" not in headers
    status, headers, _ = chat(rig, "loop/below")
    assert (status, headers["x-stoa-warning"]) == (200, "run: the same prompt 2 times")
    assert float(headers["server-timing"].count("queue")) >= 0
    status, headers, _ = chat(rig, "loop")
    assert (status, headers["x-stoa-warning"]) == (200, "run: the same prompt 3 times; slowed down")
    status, headers, code = chat(rig, "loop")
    assert (status, code) == (429, "run_paused") and int(headers["retry-after"]) >= 1
    assert headers["retry-after-ms"] == headers["retry-after"] + "000"
    assert headers["x-ratelimit-limit-requests"] == "1000"
    for run in ("loop", "loop", "loop/other"):
        status, _, code = chat(rig, run, "again" if run == "loop" else "something else")
        assert (status, code) == (403, "run_stopped")
    assert chat(rig, "another")[0] == 200
