"""Every route of the API, asked by somebody of another organization: 404, never 403, no data."""

import json
from datetime import timedelta
from typing import Any

import pytest
from django.test import Client
from django.urls import URLPattern, URLResolver, get_resolver
from django.utils import timezone

from billing.models import Budget, UsageInbox
from billing.payments.stripe.models import StripeMethod
from billing.spending import budgets
from compliance import audit
from compliance.erasure import planning
from compliance.keys import destroying
from compliance.log import subscriptions
from compliance.models import Erasure, KeyDestruction, SubjectRequest
from compliance.privacy import holds
from compliance.subject_requests import services as subject_requests
from compliance.subjects import ORGANIZATION, PERSON, Subject
from controlplane.endpoints import maintenance, pulls, quote_keeping, uploads
from controlplane.fleet.models import Maintenance
from controlplane.tenancy import notices, project_secrets, services
from tests.api.house import NOW, House, delivered, post, signed_in, with_key
from tests.billing import invoices
from tests.placement.test_models import LLAMA

PREFIX = "api/v1/"
# Routes that name nothing of a tenant: lists (checked below), and the operator's.
OPERATOR = {
    *("regions", "nodes", "enrollment-tokens", "maintenances", "decommissions"),
    *("agent-rollouts", "entity", "books", "datev-accounts"),
    "switching-imports",
}


def routes() -> set[str]:
    """Every pattern below /api/v1, as the resolver has it."""
    found: set[str] = set()

    def walk(patterns: list[Any], prefix: str) -> None:
        for pattern in patterns:
            path = prefix + str(pattern.pattern).lstrip("^").rstrip("$").removesuffix("\\Z")
            if isinstance(pattern, URLResolver):
                walk(pattern.url_patterns, path)
            elif isinstance(pattern, URLPattern):
                found.add(path)

    walk(get_resolver().url_patterns, "")
    return {path.removeprefix(PREFIX) for path in found if path.startswith(PREFIX)}


def budget(house: House) -> str:
    """The id of a budget of its project, made when it is asked for first."""
    place = {"subject": "project", "subject_id": house.project.id}
    if (found := Budget.objects.filter(**place).first()) is not None:
        return found.id
    owner = budgets.Owner(house.organization.id, house.organization.region_code, **place)
    made = budgets.create(
        actor=audit.SYSTEM, owner=owner, unit="calls", amount=5, window="day", now=NOW
    )
    return made.id


def secret(house: House) -> str:
    """The id of a secret of its project, made when it is asked for first."""
    if (found := house.project.secrets.first()) is not None:
        return found.id
    value = {"token": f"hf_{house.organization.name}"}
    return project_secrets.create_secret(
        actor=audit.SYSTEM, project=house.project, kind="hub", name="mine", value=value, now=NOW
    ).id


def notice(house: House) -> str:
    """The id of what it was told; telling again tells nothing new."""
    return notices.tell(
        house.organization,
        subject=f"for {house.organization.name}",
        text="a node is serviced",
        about=audit.Target("node", "node_1"),
        key="maintenance",
        now=NOW,
    ).id


def subscription(house: House) -> str:
    """The id of an address that is sent its log."""
    if (found := subscriptions.of(house.organization.id).first()) is not None:
        return found.id
    made, _ = subscriptions.subscribe(
        actor=audit.SYSTEM,
        owner=house.organization.id,
        kind="events",
        via="webhook",
        address="https://siem.example.eu/in",
        now=NOW,
    )
    return made.id


def pull(house: House) -> str:
    if (found := house.project.pulls.first()) is not None:
        return found.id
    return pulls.pull_model(
        actor=audit.SYSTEM,
        project=house.project,
        pool=house.pool,
        spec=pulls.PullSpec(f"{house.organization.name}/model"),
        now=NOW,
    ).id


def quote(house: House) -> str:
    if (found := house.project.quotes.first()) is not None:
        return found.id
    load = {"requests_per_second": 1, "prompt_tokens": 1000, "output_tokens": 100}
    return quote_keeping.create(
        actor=audit.SYSTEM, project=house.project, body={"config": LLAMA, "load": load}, now=NOW
    ).id


def upload(house: House) -> str:
    if (found := house.project.uploads.first()) is not None:
        return found.id
    files = [{"path": "config.json", "size_bytes": 2, "sha256": "0" * 64}]
    return uploads.begin_upload(
        actor=audit.SYSTEM,
        project=house.project,
        name=house.organization.name,
        files=files,
        now=NOW,
    ).id


def planned(house: House) -> str:
    """The id of maintenance of its node, planned when it is asked for first."""
    if (found := Maintenance.objects.filter(node=house.node).first()) is not None:
        return found.id
    now = timezone.now()
    return maintenance.plan(
        node=house.node,
        starts_at=now + timedelta(hours=1),
        ends_at=now + timedelta(hours=2),
        message=house.organization.name,
        actor=audit.SYSTEM,
        now=now,
    ).id


def stored_method(house: House) -> str:
    """The id of a card of its organization."""
    made, _ = StripeMethod.objects.get_or_create(
        method_id=f"pm_{house.organization.id}",
        defaults={
            "account_id": house.organization.account_id,
            "kind": "card",
            "last4": "4242",
            "created_at": NOW,
        },
    )
    return made.id


def request(house: House) -> str:
    """The id of a request of its key, which is booked."""
    id = f"req-{house.organization.name[:1]}"
    if not UsageInbox.objects.filter(request_id=id).exists():
        tokens = {"input_tokens": 1, "cached_tokens": 0, "output_tokens": 1}
        delivered(house, request_id=id, booked_at=timezone.now(), **tokens)
    return id


def invoice(house: House) -> str:
    """The id of a final invoice of its organization, made when it is asked for first."""
    account = house.organization.account
    if (found := account.invoices.first()) is not None:
        return found.id
    return invoices.freeze(invoices.draft(account, invoices.entity())).id


def asked(house: House) -> str:
    """The id of its owner's request about their data."""
    mine = SubjectRequest.objects.filter(subject_id=house.owner.id)
    if (found := mine.first()) is not None:
        return found.id
    actor = audit.Actor("user", house.owner.id, "session")
    return subject_requests.open_request(
        actor=actor, type="access", log=audit.PLATFORM, subject_id=house.owner.id, now=NOW
    ).id


def erasure(house: House) -> str:
    """The id of a plan to erase one of its people."""
    subject = Subject(PERSON, house.billing.id)
    if (found := Erasure.objects.filter(subject_id=subject.id).first()) is not None:
        return found.id
    return planning.plan(actor=audit.SYSTEM, subject=subject, log=audit.PLATFORM, now=NOW).id


def hold(house: House) -> str:
    """The id of a legal hold of its organization."""
    subject = Subject(ORGANIZATION, house.organization.id)
    words = {"subject": subject, "log": subject.id, "reason": "a claim"}
    return holds.place(actor=audit.SYSTEM, now=NOW, **words).id  # type: ignore[arg-type]


def destruction(house: House) -> str:
    """The id of its owner's wish to have its data keys destroyed."""
    subject = Subject(ORGANIZATION, house.organization.id)
    if (found := KeyDestruction.objects.filter(subject_id=subject.id).first()) is not None:
        return found.id
    actor = audit.Actor("user", house.owner.id, "session")
    return destroying.request(
        actor=actor, subject=subject, reason_code="contract_ended", now=NOW
    ).id


def things(house: House) -> dict[str, str]:
    """The id that each resource of a tenant is asked for by."""
    return {
        "organizations": house.organization.id,
        "projects": house.project.id,
        "members": house.membership_id,
        "api-keys": house.key_id,
        "endpoints": house.endpoint.id,
        "aliases": house.alias.id,
        "batches": house.batch_id,
        "replicas": house.replica.id,
        "versions": house.endpoint.versions.get().id,
        "nodes": house.node.id,
        "pools": house.pool.id,
        "maintenances": planned(house),
        "decommissions": "",
        "meter-findings": "",
        "agent-rollouts": "",
        "budgets": budget(house),
        "secrets": secret(house),
        "notices": notice(house),
        "model-pulls": pull(house),
        "quotes": quote(house),
        "model-uploads": upload(house),
        "payment-methods": stored_method(house),
        "invoices": invoice(house),
        "exports": "",
        "receipts": request(house),
        "log-subscriptions": subscription(house),
        "controls": "A.8.15",
        "subject-requests": asked(house),
        "erasures": erasure(house),
        "legal-holds": hold(house),
        "retention-rules": "a_rule",
        "key-destructions": destruction(house),
        "bank-entries": "",
        "books": "2026-03",
        "collection-files": "",
        "engine-versions": "",
        "switching-imports": "",
    }


def requests(client: Client, house: House) -> list[tuple[str, Any]]:
    """Every way to name something of `house`, as (what, answer)."""
    named = []
    for route in sorted(routes()):
        resource = route.split("/")[0]
        thing = things(house).get(resource)
        if "(?P<pk>" not in route and "<str:pk>" not in route:
            continue
        assert thing is not None, f"{route}: this test does not know what to ask for"
        suffix = route.partition("/")[2].rpartition("/")[2]
        path = f"/api/v1/{resource}/{thing or 'exp_01k00000000000000000000000'}"
        path += f"/{suffix}" if suffix and "pk" not in suffix else ""
        for method in ("get", "patch", "delete", "post"):
            answer = getattr(client, method)(path, data={}, content_type="application/json")
            named.append((f"{method} {path}", answer))
    return named


@pytest.mark.django_db(transaction=True)  # the streams look from threads of their own
@pytest.mark.parametrize("way", ["session", "key"])
def test_named_things_do_not_exist_for_strangers(alice: House, mallory: House, way: str) -> None:
    client = signed_in(mallory.owner) if way == "session" else with_key(mallory.secret)
    answers = requests(client, alice)
    assert len(answers) > 30
    for what, answer in answers:
        assert answer.status_code in (404, 405), f"{what}: {answer.status_code} {answer.content!r}"
        text = answer.content.decode()
        assert "alice" not in text, what
        assert alice.organization.id not in text, what


@pytest.mark.parametrize("way", ["session", "key"])
def test_lists_hold_nothing_of_strangers(alice: House, mallory: House, way: str) -> None:
    client = signed_in(mallory.owner) if way == "session" else with_key(mallory.secret)
    for route in sorted(path for path in routes() if "<" not in path and path != "schema"):
        answer = client.get(f"/api/v1/{route}")
        text = answer.getvalue().decode()  # of a file, too
        for thing in (*filter(None, things(alice).values()), alice.pool.id, "alice"):
            assert thing not in text, f"{route} shows {thing}"


def test_creating_in_a_strangers_place(alice: House, mallory: House) -> None:
    client = signed_in(mallory.owner)
    bodies = {
        "/projects": {"organization": alice.organization.id, "name": "x"},
        "/members": {
            "organization": alice.organization.id,
            "email": mallory.billing.email,
            "role": "admin",
        },
        "/api-keys": {"project": alice.project.id, "name": "x"},
        "/endpoints": {
            "project": alice.project.id,
            "name": "x",
            "model": "/m",
            "device_kind": "cpu",
        },
        "/quotes": {"project": alice.project.id, "config": LLAMA},
        "/aliases": {"project": alice.project.id, "name": "x", "targets": ["chat"]},
        "/budgets": {
            **{"unit": "calls", "amount": "5", "window": "day"},
            "organization": alice.organization.id,
        },
        "/run-usage/references": {"project": alice.project.id, "run": "x"},
        "/run-usage/summary": {"project": alice.project.id, "run": "x"},
        "/exports": {
            "organization": alice.organization.id,
            "reason": "curiosity",
            "period_start": "2026-11-01T00:00:00Z",
            "period_end": "2026-11-02T00:00:00Z",
        },
    }
    for path, body in bodies.items():
        answer = post(client, path, body)
        assert answer.status_code == 404, f"{path}: {answer.content!r}"
        assert answer["content-type"] == "application/problem+json"
    for place in ({"project": alice.project.id, "each": "run"}, {"key": alice.key_id}):
        wish = {"unit": "calls", "amount": "5", "window": "day", **place}
        assert post(client, "/budgets", wish).status_code == 404
    pool = post(
        client,
        "/endpoints",
        {
            "project": mallory.project.id,
            "name": "x",
            "model": "/m",
            "device_kind": "cpu",
            "pool": alice.pool.id,
        },
    )
    assert pool.status_code == 404


@pytest.mark.parametrize(
    "path", ["/audit-events", "/exports", "/costs", "/log-subscriptions", "/controls"]
)
def test_asking_for_a_strangers_organization(alice: House, mallory: House, path: str) -> None:
    answer = signed_in(mallory.owner).get(f"/api/v1{path}", {"organization": alice.organization.id})
    assert answer.status_code == 404
    assert json.loads(answer.content)["code"] == "not_found"
    project = signed_in(mallory.owner).get("/api/v1/run-usage", {"project": alice.project.id})
    assert project.status_code == 404


def test_the_operators_routes_do_not_exist_for_tenants(alice: House) -> None:
    client = signed_in(alice.owner)
    for route in OPERATOR:
        for method in ("get", "post"):
            answer = getattr(client, method)(
                f"/api/v1/{route}", data={}, content_type="application/json"
            )
            assert answer.status_code in (404, 405), f"{method} {route}"


def test_a_key_sees_its_own_project_alone(alice: House) -> None:
    other = services.create_project(
        actor=audit.SYSTEM,
        organization=alice.organization,
        name="other",
        now=alice.project.created_at,
    )
    client = with_key(alice.secret)
    assert client.get(f"/api/v1/projects/{alice.project.id}").status_code == 200
    assert client.get(f"/api/v1/projects/{other.id}").status_code == 404
