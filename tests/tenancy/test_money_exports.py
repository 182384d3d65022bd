"""What an organization takes away of its money: invoices in every form, and what computes them."""

import hashlib
import json
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from pytest_django import Settings

from billing.invoices import recompute
from billing.invoices.bundle import Bundle
from billing.meters import digests
from billing.models import Invoice
from billing.pricing import prices
from compliance import audit, exports
from compliance.bundles import stoa_verify
from compliance.log import signing
from compliance.models import AuditEvent, Export
from tests.billing import invoices
from tests.billing.events import MONTH
from tests.billing.invoices import NEXT, served
from tests.billing.test_invoicing import AUSTRIAN, final
from tests.logs import settle
from tests.signers import running

ASKED = NEXT + timedelta(days=1)


@pytest.fixture(autouse=True)
def signer(settings: Settings, tmp_path: Path) -> Iterator[None]:
    settings.VAR = tmp_path
    with running():
        yield


@pytest.fixture
def invoice(ours: Any) -> Invoice:
    """Of ten hours, a digest of the first of them beside it."""
    prices.publish_defaults(actor=audit.SYSTEM, now=MONTH)
    account = ours.organization.account
    invoices.customer(account, invoices.entity(), contact="Ada Lovelace", **AUSTRIAN)
    served(account, seconds_=36_000)
    log = digests.Log(ours.organization.id, "eu-de-1")
    digests.make(account.id, MONTH, log=log, now=NEXT)
    return final(account)


def built(log: str, kind: str, profile: str = "full") -> tuple[Export, dict[str, bytes]]:
    export = exports.request(
        actor=audit.SYSTEM,
        log=log,
        reason="tax audit",
        start=MONTH,
        end=ASKED,
        now=ASKED,
        kind=kind,
        profile=profile,
    )
    settle(ASKED)
    export = exports.build(export.id, ASKED)
    key = stoa_verify.Vkey.parse(signing.vkey())
    report = stoa_verify.verify(exports.archive(export), stoa_verify.Options([key]))
    assert report.exit_code() == stoa_verify.OK, report.checks
    with zipfile.ZipFile(exports.archive(export)) as bundle:
        return export, {name: bundle.read(name) for name in bundle.namelist()}


def rows(files: dict[str, bytes], name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in files[f"data/{name}.jsonl"].splitlines()]


def test_invoices_come_as_they_were_frozen_and_recorded(ours: Any, invoice: Invoice) -> None:
    """Every form has the hash that the audit log in the same bundle says; again gives the same."""
    export, files = built(ours.organization.id, "invoices")
    assert [one["number"] for one in rows(files, "invoices")] == [invoice.label]
    forms = {one["form"]: one for one in rows(files, "invoice_files")}
    assert {*forms} == {"json", "cii", "pdf", "decision"}
    event = AuditEvent.objects.get(action="invoice.finalise", target_id=invoice.id)
    assert bytes(event.body) in files["log/events.jsonl"]
    told = {one["path"]: one["to"] for one in json.loads(bytes(event.body))["change"]}
    for form, one in forms.items():
        digest = hashlib.sha256(files[one["path"]]).hexdigest()
        assert digest == one["sha256"] == told[f"{form}_sha256"]
        assert len(files[one["path"]]) == one["bytes"]
    assert b"Ada Lovelace" in files[forms["json"]["path"]]
    exports.archive(export).unlink()
    assert exports.build(export.id, ASKED).manifest_sha256 == export.manifest_sha256

    _, masked = built(ours.organization.id, "invoices", "pseudonymised")
    assert not any(b"Ada Lovelace" in content for content in masked.values())
    assert not any(name.startswith("documents/") for name in masked)


@pytest.mark.parametrize("profile", ["full", "pseudonymised"])
def test_an_invoice_is_computed_again_out_of_the_metering_evidence(
    ours: Any, invoice: Invoice, tmp_path: Path, profile: str
) -> None:
    export, files = built(ours.organization.id, "metering_evidence", profile)
    assert rows(files, "usage") and rows(files, "node_authorities") == []
    (digest,) = rows(files, "metering_digests")
    made = AuditEvent.objects.get(action="metering.digest")
    assert digest["sha256"].encode() in bytes(made.body)
    (name,) = (name for name in files if name.startswith("documents/recompute/"))
    taken = tmp_path / "taken.zip"
    taken.write_bytes(files[name])
    key = signing.vkey()
    report = recompute.recompute(Bundle(taken, [stoa_verify.Vkey.parse(key)]))
    assert report.agrees and report.events
    assert report.billed == report.recomputed > 0
    assert (b"Ada Lovelace" in zipfile.ZipFile(taken).read("events/2026-03.jsonl")) is False
    assert ("invoice.json" in zipfile.ZipFile(taken).namelist()) is (profile == "full")
    if profile == "full":  # as its customer does it, who has no settings of ours
        command = [f"{Path(sys.executable).with_name('stoa')}", "billing", "recompute"]
        given = [invoice.label, f"--export={taken}", f"--vkey={key}"]
        done = subprocess.run([*command, *given], capture_output=True, text=True, env={})
        assert done.returncode == recompute.AGREES, done.stdout + done.stderr
    exports.archive(export).unlink()
    assert exports.build(export.id, ASKED).manifest_sha256 == export.manifest_sha256


def test_the_operator_has_those_of_all_and_others_none(
    ours: Any, theirs: Any, invoice: Invoice
) -> None:
    for kind in ("invoices", "metering_evidence"):
        _, all_of_them = built(audit.PLATFORM, kind)
        assert any(invoice.id in name for name in all_of_them)
        _, none = built(theirs.organization.id, kind)
        assert not any(invoice.id in name for name in none)
