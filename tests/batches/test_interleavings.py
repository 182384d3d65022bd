"""A batch that gives way, is orphaned twice, and still has each answer once, paid once."""

import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import openai
from django.utils import timezone

from billing.models import BudgetWindow, UsageEvent, UsageInbox
from billing.spending import budgets
from billing.spending.budgets import Owner
from compliance import audit
from controlplane.batches.models import Batch, File, Line
from controlplane.tenancy.models import ApiKey
from tests.batches.conftest import CANARY_S, Place
from tests.batches.test_openai import ended, line, rows, upload
from tests.gateway.house import NOW, REGION, eventually
from workers import metering

LINES, FEW = 60, 40
SLOW_S = 0.25  # of an answer


def budget(place: Place) -> None:
    """Counts what the key's requests use; far from spent."""
    organization = place.house.project.organization_id
    budgets.create(
        actor=audit.SYSTEM,
        owner=Owner(organization, REGION, "key", ApiKey.objects.get().id),
        unit="tokens",
        amount=10_000_000,
        window="total",
        now=NOW,
    )


def people(place: Place, many: int) -> list[float]:
    """So many ordinary requests, eight at once; how long each took."""

    def ask(api: openai.OpenAI) -> float:
        began = time.monotonic()
        messages = [{"role": "user", "content": "hi"}]
        api.chat.completions.create(
            model="tiny",
            messages=messages,  # type: ignore[arg-type]
            user=f"tokens=1;delay={SLOW_S}",
        )
        return time.monotonic() - began

    api = place.openai
    with ThreadPoolExecutor(8) as pool:
        return list(pool.map(ask, [api] * many))


def crowd(place: Place) -> list[float]:
    """People come until a line was cut off for them; each time they find some that run."""
    took: list[float] = []
    while not preempted():
        eventually(lambda: place.engine.at_once >= 3, within_s=30)
        took += people(place, 16)
    assert place.engine.most_at_once <= 4
    return took


def done(batch_id: str) -> int:
    return Line.objects.filter(batch_id=batch_id, state="done").count()


def preempted() -> bool:
    return UsageInbox.objects.filter(finish="preempted").exists()


def orphan_answers(place: Place, batch_id: str, runner: int) -> None:
    """The runner stops, its lines are answered, and it dies before it has read the answers."""
    eventually(lambda: place.engine.at_once >= 2, within_s=30)
    os.kill(runner, signal.SIGSTOP)
    ids = [one.request_id for one in Line.objects.filter(batch_id=batch_id, state="running")]
    answered = UsageInbox.objects.filter(request_id__in=ids, finish="complete")
    eventually(answered.exists, within_s=30)
    os.kill(runner, signal.SIGKILL)


def test_a_batch_gives_way_and_is_orphaned_and_is_complete(place: Place) -> None:
    budget(place)
    api = place.openai
    asked = (line(n, user=f"tokens=2;delay={SLOW_S}", max_tokens=2) for n in range(LINES))
    file_id = upload(api, *asked)
    batch_id = api.batches.create(
        input_file_id=file_id, endpoint="/v1/chat/completions", completion_window="24h"
    ).id
    first = place.django.runner()
    eventually(lambda: done(batch_id) >= 3, within_s=60)
    took = crowd(place)
    orphan_answers(place, batch_id, first.pid)
    first.wait()
    assert 0 < done(batch_id) < LINES  # progress stays
    second = place.django.runner()
    eventually(lambda: Line.objects.filter(batch_id=batch_id, paid=True).exists(), within_s=30)
    eventually(lambda: place.engine.at_once >= 2, within_s=30)
    os.kill(second.pid, signal.SIGKILL)
    second.wait()
    place.django.runner()
    batch = ended(api, batch_id, within_s=120)
    assert batch.status == "completed"
    assert (batch.request_counts.total, batch.request_counts.completed) == (LINES, LINES)
    found = rows(api, batch.output_file_id)
    assert sorted(one["custom_id"] for one in found) == sorted(f"c-{n}" for n in range(LINES))
    assert not batch.error_file_id
    paid_once(place, {one["id"]: one["response"]["request_id"] for one in found})
    assert preempted()
    forecast_kept(batch.forecast, LINES)
    print(f"interactive, beside a batch: worst {max(took):.2f} s")


# Where the runners die: each after what the one before it got done, up to the end.
PLACES = (
    "copying.copy+",  # lines of a stretch are there and not committed
    "reading.step:2",  # between two stretches
    "lines.claim+",  # claimed and not sent
    "sending.send",
    "sending.send+",  # answered and charged, and nobody knows
    "lines._finishes+",  # while that one is taken over
    "lines.settle",
    "lines.settle+",
    "lines.put_back",
    "writing.step",  # no more of it runs
    "writing.step:2",  # between two steps
    "copying.copy+",  # a file's chunk is there and not committed
    "services.tell_end+",  # all is done and not committed
)


def test_a_runner_is_killed_in_each_of_its_steps(place: Place) -> None:
    budget(place)
    api = place.openai
    file_id = upload(api, *(line(n, user=f"tokens=2;delay={SLOW_S}") for n in range(FEW)))
    batch_id = api.batches.create(
        input_file_id=file_id, endpoint="/v1/chat/completions", completion_window="24h"
    ).id
    place.django.runners(*PLACES)
    batch = ended(api, batch_id, within_s=180)
    assert place.django.log("runners").split("killed at ")[1:] == [f"{one}\n" for one in PLACES]
    assert batch.status == "completed"
    assert (batch.request_counts.total, batch.request_counts.completed) == (FEW, FEW)
    found = rows(api, batch.output_file_id)
    assert [one["custom_id"] for one in found] == [f"c-{n}" for n in range(FEW)]
    assert File.objects.count() == 2 and not batch.error_file_id
    paid_once(place, {one["id"]: one["response"]["request_id"] for one in found})


def forecast_kept(forecast: dict[str, Any], many: int) -> None:
    """The canary and the end count each line once, whoever died."""
    (part,) = forecast["models"]
    assert part["predicted"] == {"missing": "there is no speed for cpu"}
    assert part["canary"]["seconds"] == float(CANARY_S)
    assert 0 < part["canary"]["requests"] < many
    assert forecast["runtime_s"] == part["canary"]["runtime_s"]
    assert (part["actual"]["requests"], part["actual"]["output_tokens"]) == (many, 2 * many)
    least = many / 4 * SLOW_S  # four run at once
    assert part["actual"]["runtime_s"] >= least


def paid_once(place: Place, request_ids: dict[str, str]) -> None:
    """Each line under the id that its answer names, the key's budget to the token, flagged."""
    inbox = UsageInbox.objects.filter(request_id__startswith="brq_")
    eventually(
        lambda: inbox.filter(request_id__in=request_ids.values()).count() == len(request_ids)
    )
    charged = [one.request_id for one in inbox.filter(output_tokens__gt=0)]
    assert sorted(charged) == sorted(request_ids.values())
    every = UsageInbox.objects.values_list("input_tokens", "output_tokens")
    spent = eventually(lambda: sum(map(sum, every)))
    eventually(lambda: BudgetWindow.objects.get().spent == sum(map(sum, every)))
    assert spent > 0
    batch = Batch.objects.get()
    assert (batch.completed, batch.failed) == (len(request_ids), 0)
    metering.book_requests(timezone.now())
    booked = UsageEvent.objects.filter(request_id__in=charged)
    assert {tuple(one.flags) for one in booked} == {("batch",)}
