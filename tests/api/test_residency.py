"""Where data is, over HTTP and in bundles: the transfers' report, the register, and receipts."""

import json
import re
import zipfile
from datetime import datetime, timedelta
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from django.core.management import call_command
from django.db import connection
from django.utils import timezone
from pytest_django import Settings

from billing.models import UsageInbox
from compliance import audit, exports
from compliance.bundles import stoa_verify
from compliance.log import signing, subscriptions
from compliance.models import AuditEvent
from compliance.privacy import registry
from controlplane.batches.models import File, Line
from controlplane.endpoints.models import Endpoint, PlacementRecord, Replica
from controlplane.endpoints.states import Reason, State
from controlplane.fleet.models import Node, Pool, Region
from controlplane.residency import stated, stores
from controlplane.residency.apps import _stated
from tests.api import house
from tests.api.house import House, signed_in, with_key
from tests.logs import settle
from tests.signers import running
from tests.test_layout import ROOT
from workers import metering

pytestmark = pytest.mark.django_db


def get(client: Any, path: str, **query: str) -> Any:
    return client.get(f"/api/v1/{path}", query)


def report(alice: House) -> Any:
    client = signed_in(alice.owner)
    answer = get(client, "transfers", organization=alice.organization.id)
    assert answer.status_code == 200, answer.content
    return answer.json()


def far_node(alice: House) -> Node:
    region = Region.objects.create(
        code="us-ny-1", country="US", name="Elsewhere", ca_key=b"", created_at=house.NOW
    )
    pool = Pool.objects.create(
        region=region, name="far", organization=alice.organization, created_at=house.NOW
    )
    return Node.objects.create(
        pool=pool,
        name="far",
        certificate_sha256="far",
        certificate_expires_at=house.NOW,
        created_at=house.NOW,
    )


def foreign(alice: House, *, recorded: bool) -> Replica:
    """A replica elsewhere, as the tables' owner can write it with triggers switched off."""
    node, off = far_node(alice), ["region_pin"] + ([] if recorded else ["placement_record"])
    with connection.cursor() as cursor:
        cursor.execute("SET CONSTRAINTS ALL IMMEDIATE")
        for trigger in off:
            cursor.execute(f"ALTER TABLE endpoints_replica DISABLE TRIGGER {trigger}")
        made = Replica.objects.create(
            endpoint=alice.endpoint,
            generation=1,
            node=node,
            state=State.STARTING,
            reason=Reason.NODE_REPORT,
            state_at=house.NOW,
            created_at=house.NOW,
        )
        cursor.execute("SET CONSTRAINTS ALL IMMEDIATE")
        for trigger in off:
            cursor.execute(f"ALTER TABLE endpoints_replica ENABLE ALWAYS TRIGGER {trigger}")
    return made


def test_a_report_is_green_and_counts_what_there_is(alice: House, mallory: House) -> None:
    for _ in range(3):
        house.delivered(alice, input_tokens=5, cached_tokens=2, output_tokens=7)
    metering.book_requests(timezone.now())
    said = report(alice)
    assert said["ok"] is True
    assert (said["population"], said["outside_pin"], said["without_record"]) == (1, 0, 0)
    assert (said["requests"], said["requests_outside_pin"]) == (3, 0)
    (place,) = said["locations"]
    assert (place["region"], place["country"], place["outside"]) == ("eu-de-1", "DE", False)
    assert (place["nodes"], place["placements"], place["requests"]) == ([alice.node.id], 1, 3)
    assert json.loads(said["query"])["organization"] == alice.organization.id
    assert (
        get(signed_in(mallory.owner), "transfers", organization=said["organization"]).status_code
        == 404
    )
    bad = {"from": "2026-11-02T00:00:00Z", "to": "2026-11-01T00:00:00Z"}
    client = signed_in(alice.owner)
    assert get(client, "transfers", organization=said["organization"], **bad).status_code == 422


@pytest.mark.parametrize("recorded", [True, False])
def test_one_foreign_placement_makes_the_report_red(alice: House, recorded: bool) -> None:
    """Whether its record was suppressed as well or not."""
    replica = foreign(alice, recorded=recorded)
    said = report(alice)
    assert said["ok"] is False
    assert said["outside_pin"] == 1
    assert said["without_record"] == (0 if recorded else 1)
    there = {one["region"]: one for one in said["locations"]}
    assert there["us-ny-1"]["outside"] and there["us-ny-1"]["nodes"] == [replica.node_id]
    # And so does a request that was served there, also when the replica is long gone.
    tokens = {"input_tokens": 5, "cached_tokens": 0, "output_tokens": 7}
    house.delivered(alice, replica_id=replica.id, **tokens)
    metering.book_requests(timezone.now())
    assert report(alice)["requests_outside_pin"] == 1


def test_a_placement_whose_record_was_suppressed_is_missed(alice: House) -> None:
    with connection.cursor() as cursor:
        cursor.execute("ALTER TABLE endpoints_placementrecord DISABLE TRIGGER append_only_rows")
        cursor.execute("DELETE FROM endpoints_placementrecord")
        cursor.execute(
            "ALTER TABLE endpoints_placementrecord ENABLE ALWAYS TRIGGER append_only_rows"
        )
    said = report(alice)
    assert (said["ok"], said["outside_pin"], said["without_record"]) == (False, 0, 1)


# --- the register -----------------------------------------------------------------------------


def test_the_register_lists_what_there_is_and_says_what_nobody_stated(
    alice: House, settings: Settings
) -> None:
    client = signed_in(alice.owner)
    answer = get(client, "data-locations", organization=alice.organization.id).json()
    by_store = {one["store"]: one for one in answer["data"]}
    assert {"database", "broker", "gateway", "node", "exports", "logs", "signer"} <= set(by_store)
    # What is off or has nothing of it is not there.
    assert not {"stripe", "mail", "log-subscription", "uploads", "containers"} & set(by_store)
    node = by_store["node"]
    assert (node["instance"], node["region"], node["country"]) == (alice.node.id, "eu-de-1", "DE")
    assert by_store["database"]["country"] == "not stated"
    assert "inference_metadata 13 months" in by_store["database"]["retention"]
    assert "database" in answer["not_stated"] and "node" not in answer["not_stated"]
    subscriptions.subscribe(
        actor=audit.SYSTEM,
        owner=alice.organization.id,
        region="eu-de-1",
        kind="heads",
        via="webhook",
        address="https://example.com/hook",
        now=house.NOW,
    )
    settings.LOCATIONS = ["home=DE/Example Hosting GmbH/DE", "logs=FI/Example Oy"]
    answer = get(client, "data-locations", organization=alice.organization.id).json()
    by_store = {one["store"]: one for one in answer["data"]}
    assert by_store["log-subscription"]["country"] == "not stated"
    said = by_store["database"]
    stated_of = (said["country"], said["operator"], said["operator_parent"])
    assert stated_of == ("DE", "Example Hosting GmbH", "DE")
    assert by_store["logs"]["country"] == "FI"
    assert "database" not in answer["not_stated"]
    settings.LOCATIONS = ["cellar=DE"]
    assert [one.id for one in _stated(None)] == ["residency.W001"]
    settings.LOCATIONS = ["home=Germany"]
    assert [one.id for one in _stated(None)] == ["residency.E001"]
    with pytest.raises(stated.Unreadable):
        stated.parse(["home=Germany"])


_PLACES = re.compile(
    r".*_(URL|DIR|ENDPOINTS?|HOST|HOSTS|SOCKETS?|BASE|GATEWAYS|REGISTRIES|SIGNER|PROXY|PEERS)"
)
_FIGURES = {  # named like places, and none
    "STOA_ALLOWED_HOSTS": "names that the web process answers to",
    "STOA_GATEWAY_HOSTS": "how many there are",
    "STOA_SIGNER_PEERS": "users",
    "STOA_GATEWAY_HELD_PER_ENDPOINT": "how many",
}


def test_no_store_is_without_its_place() -> None:
    """Each setting that points somewhere belongs to a store of the register, or is said not to."""
    documented = set(
        re.findall(
            r"\b(?:STOA|HF|OTEL)_[A-Z0-9_]+|\b[A-Z]+_(?:URL|PROXY)\b",
            "\n".join(
                line.split("|")[1]
                for line in (ROOT / "docs/settings.md").read_text().splitlines()
                if line.startswith("| ")
            ),
        )
    )
    pointing = {name for name in documented if _PLACES.fullmatch(name)}
    covered = {name for store in stores.STORES.values() for name in store.settings}
    assert len(pointing) > 30
    assert pointing - covered - stores.NO_STORE.keys() - _FIGURES.keys() == set()
    assert covered & stores.NO_STORE.keys() == set()
    assert covered - documented == set()  # nor is a store kept whose setting is gone
    for store in stores.STORES.values():
        assert store.purpose and store.encrypted and store.key_holder and store.retention
    # Whatever tables are said to lie in is a store.
    assert {one.split("-")[0] for one in registry.LOCATIONS} <= stores.STORES.keys()


# --- receipts -----------------------------------------------------------------------------------


def delivered(alice: House, request_id: str = "req_1") -> None:
    tokens = {"input_tokens": 5, "cached_tokens": 2, "output_tokens": 7}
    house.delivered(alice, request_id=request_id, **tokens)


def booked(alice: House, request_id: str = "req_1") -> None:
    delivered(alice, request_id)
    assert metering.book_requests(timezone.now()) == 1


def test_a_receipt_says_where_and_by_what_and_anybody_checks_it(
    alice: House, mallory: House, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    reader, file = with_key(alice.reader), tmp_path / "receipt.json"
    delivered(alice)
    Replica.objects.update(engine_report={"version": "0.11.0"})
    Endpoint.objects.update(pinned={"path /models/tiny@": ""})
    with running():
        waiting = get(reader, "receipts/req_1")
        assert (waiting.status_code, waiting.json()["code"]) == (409, "not_yet")
        assert get(with_key(mallory.reader), "receipts/req_1").status_code == 404
        metering.book_requests(timezone.now())
        assert get(with_key(mallory.reader), "receipts/req_1").status_code == 404
        assert get(reader, "receipts/req_2").status_code == 404
        assert not AuditEvent.objects.filter(action="receipt.issue").exists()
        answer = get(reader, "receipts/req_1")
        assert answer.status_code == 200, answer.content
        call_command("evidence", "receipt", "req_1", "--out", str(file), stdout=StringIO())
    said = json.loads(answer.json()["body"])
    assert (said["pin"], said["inside_pin"]) == ("eu-de-1", True)
    (place,) = said["processed"]
    assert (place["region"], place["country"], place["node"]) == ("eu-de-1", "DE", alice.node.id)
    assert (said["replica"], said["endpoint"]) == (alice.replica.id, alice.endpoint.id)
    assert (said["key"], said["project"]) == (alice.key_id, alice.project.id)
    assert said["model"]["name"] == "/models/tiny"
    assert said["model"]["files_sha256"] is None  # a path on a node: nobody here knows its bytes
    assert said["engine"] == {"name": "vllm", "version": "0.11.0", "reported": True}
    counted = {"input_tokens": 5, "cached_tokens": 2, "output_tokens": 7, "counted_by": "engine"}
    assert said["tokens"] == counted
    assert said["content"] == {
        "stored": False,
        "statement": "content not stored by Stoa's services",
    }
    until = {one["rule"]: one["until"] for one in said["metadata"]}
    assert until.keys() == {
        *("request_inbox", "inference_metadata", "meter_evidence", "accountability")
    }
    assert said["closed_at"] < until["request_inbox"] < until["inference_metadata"]
    assert until["accountability"] is None  # it is kept for good
    events = AuditEvent.objects.filter(action="receipt.issue", target_id="req_1")
    assert {event.actor_type for event in events} == {"api_key", "system"}
    assert answer.json()["sha256"] in {
        json.loads(bytes(one.body))["change"][0]["to"] for one in events
    }
    # By the program that auditors have, and not when a character of it is another.
    given = json.loads(file.read_text())
    arguments = [str(file), "--vkey", given["vkey"], "--json"]
    assert stoa_verify.main(arguments) == stoa_verify.OK
    told = json.loads(capsys.readouterr().out)
    assert (told["verdict"], told["kind"]) == ("ok", "residency_receipt")
    assert told["receipt"]["request"] == "req_1"
    for part, old, new in (
        ("body", '"US"' if '"US"' in given["body"] else '"DE"', '"FR"'),
        ("note", "residency_receipt", "other_receipt"),
        ("request", "req_1", "req_2"),
    ):
        file.write_text(json.dumps(given | {part: given[part].replace(old, new)}))
        assert stoa_verify.main(arguments) == stoa_verify.TAMPERED
    capsys.readouterr()


def test_what_the_inbox_has_forgotten_the_books_still_say(alice: House) -> None:
    booked(alice)
    UsageInbox.objects.all().delete()
    with running():
        said = json.loads(get(with_key(alice.reader), "receipts/req_1").json()["body"])
    assert said["tokens"]["input_tokens"] == 5 and said["tokens"]["cached_tokens"] == 2
    assert (said["inside_pin"], said["gateway"], said["opened_at"]) == (True, None, None)


def test_a_receipt_of_a_batchs_line_says_that_content_is_kept(alice: House) -> None:
    """And for how long; when its files are gone, that they are."""
    line = Line.objects.create(
        batch_id=alice.batch_id, number=1, offset=0, size=3, model="chat", attempt=1
    )
    booked(alice, line.request_id)
    with running():
        path = f"receipts/{line.request_id}"
        content = json.loads(get(with_key(alice.reader), path).json()["body"])["content"]
        assert content["stored"] is True and content["batch"] == alice.batch_id
        assert [one["until"] for one in content["files"]]
        File.objects.all().delete()
        content = json.loads(get(with_key(alice.reader), path).json()["body"])["content"]
        assert content["stored"] is False


def test_without_a_signer_there_is_no_receipt_and_no_event(alice: House) -> None:
    booked(alice)
    answer = get(with_key(alice.reader), "receipts/req_1")
    assert (answer.status_code, answer.json()["code"]) == (409, "signer_away")
    assert not AuditEvent.objects.filter(action="receipt.issue").exists()


# --- the bundle ----------------------------------------------------------------------------------


def test_a_bundle_has_the_tables_and_both_documents(
    alice: House, settings: Settings, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings.VAR = tmp_path
    now: datetime = timezone.now()
    with running():
        export = exports.request(
            actor=audit.SYSTEM,
            log=alice.organization.id,
            kind="locations_transfers",
            reason="a question of the board",
            start=house.NOW - timedelta(days=30),
            end=now + timedelta(days=1),
            now=now,
        )
        settle(now)
        exports.build(export.id, now)
        export.refresh_from_db()
        vkey = signing.vkey()
    assert export.failure == ""
    archive = exports.archive(export)
    assert stoa_verify.main([str(archive), "--vkey", vkey]) == stoa_verify.OK
    capsys.readouterr()
    with zipfile.ZipFile(archive) as bundle:
        names = set(bundle.namelist())
        told = json.loads(bundle.read("documents/no_transfer_report.json"))
        there = json.loads(bundle.read("documents/data_locations.json"))
        rows = [json.loads(line) for line in bundle.read("data/placements.jsonl").splitlines()]
    assert told["ok"] is True and told["population"] == 1 and "log/checkpoint" in names
    assert there["not_stated"] and there["locations"]
    assert [row["node_id"] for row in rows] == [alice.node.id]
    assert PlacementRecord.objects.count() == 1
