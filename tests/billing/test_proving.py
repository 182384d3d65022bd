"""Device-seconds of an invoice against what nodes signed, as its customer checks them."""

import base64
import json
import sys
from collections.abc import Sequence
from datetime import datetime, timedelta
from pathlib import Path

import msgspec
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from billing import months, tenants
from billing.invoices import bundle, recompute
from billing.invoices.evidence import Stored
from billing.meters import metering, proving, usage
from billing.meters.proving import Authority, Certificate, Metered, Signed, Tally
from billing.models import Account, NodeBatch
from controlplane.fleet import authority, meter_wire
from controlplane.fleet.meter_wire import MeterBody, MeterRecord, MeterState
from tests.billing.events import MONTH, NOW, minutes, publish, seconds
from tests.billing.test_recompute import APRIL, edit, issue

SPANS = {MONTH: months.after(MONTH)}
REGION = authority.create("eu-de-1", now=MONTH)


class Node:
    """A node's key, certified by an authority, and what it signs."""

    def __init__(self, region: authority.Authority = REGION, id: str = "node_1") -> None:
        self.id, self.key = id, Ed25519PrivateKey.generate()
        made = authority.node_certificate(
            region, self.key.public_key(), node_id=id, now=MONTH, lifetime=timedelta(days=60)
        )
        self.der = made.public_bytes(serialization.Encoding.DER)
        self.certificate = Certificate(authority.sha256(made), id, self.der)

    def batch(self, *records: MeterRecord, node_id: str = "") -> Signed:
        said = MeterBody(node_id=node_id or self.id, machine_boot="boot", records=list(records))
        body = msgspec.json.encode(said)
        return Signed(
            node_id=self.id,
            received_at=NOW,
            certificate_sha256=self.certificate.sha256,
            body=body,
            signature=self.key.sign(meter_wire.signed_bytes(body)),
        )


def record(
    seq: int,
    start_s: float,
    end_s: float,
    at: datetime = NOW,
    state: str = "ready",
    devices: int = 1,
) -> MeterRecord:
    wall_us = round((at.timestamp() + start_s) * 1e6)
    start, end = round(start_s * 1e6), round(end_s * 1e6)
    return MeterRecord(
        seq=seq,
        replica_id="rep_1",
        state=MeterState(state),
        devices=devices,
        mono_start_us=start,
        mono_end_us=end,
        before_us=start,
        wall_start_us=wall_us,
        wall_end_us=wall_us + end - start,
    )


def checked(
    billed_s: int,
    batches: Sequence[Signed],
    *nodes: Node,
    meter: str = "device_seconds",
    flags: tuple[str, ...] = (),
    trusted: authority.Authority = REGION,
) -> Metered:
    tally = Tally()
    event = bundle.Event(
        "rep_1:siv_1:1", NOW, "prj", "ep", "eu-de-1", meter, "charge", billed_s, "", "rep_1", "",
        "cpu", 1000, "", "", flags,
    )  # fmt: skip
    tally.add(MONTH, event)
    issuers = [Authority("eu-de-1", trusted.certificate_pem)]
    return proving.check(tally, SPANS, batches, [one.certificate for one in nodes], issuers)


def test_what_is_billed_is_held_against_what_nodes_signed_once() -> None:
    node = Node()
    told = [
        node.batch(record(1, 0, 60), record(2, 60, 120)),
        node.batch(record(2, 60, 121)),  # its number is taken
        node.batch(record(1, 0, 60)),  # once more
        node.batch(record(4, 90, 140), record(3, 120, 130)),  # both tell of seconds that are told
        node.batch(record(5, 200, 260, state="asleep")),
        node.batch(record(6, 300, 360, at=MONTH - timedelta(hours=2))),  # of another month
    ]
    whole = checked(140, told, node)
    assert (whole.verdict, whole.signatures) == (proving.PROVED, proving.CHECKED), whole.problems
    assert (int(whole.recorded), whole.batches) == (200, 6)
    more = checked(141, told, node)
    assert more.verdict == proving.DIFFERS
    assert "141 ready device-seconds are billed, and its node signed 140.000" in more.problems[0]
    assert checked(60, told, node, meter="asleep_seconds").verdict == proving.PROVED
    assert checked(61, told, node, meter="asleep_seconds").verdict == proving.DIFFERS
    eight = [node.batch(record(1, 0, 60, devices=8))]
    assert checked(480, eight, node).verdict == proving.PROVED
    assert checked(481, eight, node).verdict == proving.DIFFERS


def test_only_its_nodes_key_that_the_authority_certified_counts() -> None:
    node, other = Node(), Node(id="node_2")
    good = node.batch(record(1, 0, 60))
    longer = msgspec.structs.replace(good, body=good.body.replace(b"60000000", b"61000000"))
    stranger = Node(authority.create("eu-de-1", now=MONTH))
    borrowed = msgspec.structs.replace(
        other.batch(record(1, 0, 60), node_id="node_1"), node_id="node_1"
    )
    for batch, nodes, why in (
        (longer, [node], "its signature does not fit"),
        (stranger.batch(record(1, 0, 60)), [stranger], "its certificate is of no authority given"),
        (good, [other], "its certificate is missing"),
        (borrowed, [node, other], "its certificate is missing"),
        (node.batch(record(1, 0, 60), node_id="node_2"), [node], "it speaks of another node"),
        (msgspec.structs.replace(good, body=b"{"), [node], "it cannot be read"),
    ):
        found = checked(60, [batch], *nodes)
        assert found.verdict == proving.DIFFERS, why
        assert why in found.problems[0]
        assert found.recorded == 0
    lent = msgspec.structs.replace(other.certificate, node_id="node_1")
    tally = Tally()
    issuers = [Authority("eu-de-1", REGION.certificate_pem)]
    [problem] = proving.check(tally, SPANS, [borrowed], [lent], issuers).problems
    assert "its certificate is of another node" in problem


def test_without_the_package_the_sums_are_made_and_that_is_said(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    node = Node()
    good = node.batch(record(1, 0, 60))
    forged = msgspec.structs.replace(good, signature=b"no")
    monkeypatch.setitem(sys.modules, "cryptography", None)
    found = checked(60, [forged], node)
    assert (found.verdict, found.signatures) == (proving.UNCHECKED, proving.NO_PACKAGE)
    assert proving.NO_PACKAGE in proving.lines(found)[0]
    assert checked(61, [forged], node).verdict == proving.DIFFERS


def test_what_has_no_record_is_said() -> None:
    found = checked(60, [])
    assert found.verdict == proving.NONE
    assert "NO RECORDS of nodes are given for 2026-03" in proving.lines(found)[1]
    found = checked(60, [], flags=("unproved",))
    assert (found.verdict, found.billed, found.unproved) == (proving.PROVED, 0, 60)
    assert "60 more are flagged" in proving.lines(found)[1]


def test_a_customer_checks_signatures_from_its_evidence_alone(
    account: Account,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    publish("2.49", MONTH)
    usage.record(
        [*minutes(account, NOW, 3), seconds(account, NOW, 9, id="r:s:w", meter="warm_seconds")]
    )
    publish("1.00", MONTH, meter="warm_seconds")
    node = Node()
    signed = node.batch(*(record(n, 60 * n - 60, 60 * n) for n in range(1, 5)))
    kept = [
        metering.Batch(
            node_id=node.id,
            body=one.body,
            signature=one.signature,
            certificate_sha256=one.certificate_sha256,
            certificate=node.der,
            account_id=whose,
        )
        for one, whose in ((signed, account.id), (node.batch(record(9, 900, 960)), ""))
    ]
    metering.store(node.id, kept, NOW)
    assert NodeBatch.objects.count() == 2
    monkeypatch.setattr(tenants, "_certified", [lambda: {"eu-de-1": REGION.certificate_pem}])
    path, pem = tmp_path / "evidence.zip", tmp_path / "authority.pem"
    with path.open("wb") as file:
        bundle.write(Stored(issue(account, MONTH, APRIL)), file)
    assert recompute.main(["--export", str(path), "--json"]) == recompute.AGREES
    shown = json.loads(capsys.readouterr().out)["metering"]
    assert shown == {
        "verdict": "proved",
        "signatures": "checked",
        "authorities": [f"eu-de-1 {authority.pin(REGION.certificate_pem)[7:]}"],
        "batches": 1,  # the other one is of several accounts
        "billed_device_seconds": 189,
        "recorded_device_seconds": "240.000",
        "unproved_device_seconds": 0,
        "months_without_records": [],
        "problems": [],
    }
    pem.write_text(authority.create("eu-de-1", now=MONTH).certificate_pem)
    given = ["--export", str(path), "--authority", str(pem)]
    assert recompute.main(given) == recompute.DIFFERS
    assert "its certificate is of no authority given" in capsys.readouterr().out
    pem.write_text(REGION.certificate_pem)
    assert recompute.main(given) == recompute.AGREES
    capsys.readouterr()

    def shorter(lines: bytes) -> bytes:
        row = json.loads(lines)
        body = base64.b64decode(row["body"]).replace(b"60000000", b"59000000")
        return json.dumps(row | {"body": base64.b64encode(body).decode()}).encode() + b"\n"

    edit(path, "node/batches.jsonl", shorter, honest=True)
    assert recompute.main(["--export", str(path)]) == recompute.DIFFERS
    assert "its signature does not fit" in capsys.readouterr().out
