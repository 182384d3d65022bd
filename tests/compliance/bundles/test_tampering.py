"""Whoever changes anything is caught, with a reason: with and without a new signature over it.

An outsider packs the files anew. An insider also has the manifest signed anew by the real key: then
the log itself must tell.
"""

import base64
import json
import re
from pathlib import Path

import pytest
import rfc8785
from hypothesis import given, settings
from hypothesis import strategies as st

from compliance.bundles import log_part, stoa_verify
from compliance.bundles.stoa_verify import Report
from tests.compliance.bundles import making
from tests.compliance.bundles.making import Change, Key, MemoryLog, bodies, check, forge, make

SIZE = 75
Files = dict[str, bytes]


@pytest.fixture(scope="module")
def honest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make(tmp_path_factory.mktemp("honest") / "bundle.zip", MemoryLog(bodies(SIZE)))


def reasons(report: Report, outcome: str = "tampered") -> str:
    return " | ".join(one["detail"] for one in report.checks if one["outcome"] == outcome)


def test_the_honest_bundle_holds(honest: Path) -> None:
    report = check(honest)
    assert report.exit_code() == stoa_verify.OK, report.checks
    assert report.facts["openings"] == {"disclosed": 24, "redacted": 1, "withheld": 0}


def edit(files: Files) -> None:
    name = "log/events.jsonl"
    files[name] = files[name].replace(b"key_7", b"key_8", 1)


def delete(files: Files) -> None:
    events = files["log/events.jsonl"].splitlines(keepends=True)
    files["log/events.jsonl"] = b"".join(events[:30] + events[31:])


def delete_and_count_anew(files: Files) -> None:
    delete(files)
    renumber(files)


def renumber(files: Files) -> None:
    events = [json.loads(line)["body"] for line in files["log/events.jsonl"].splitlines()]
    files["log/events.jsonl"] = b"".join(
        log_part.line(n, rfc8785.dumps(body)) for n, body in enumerate(events)
    )
    manifest = json.loads(files["manifest.json"])
    manifest["log_proof"]["count"] = len(events)
    files["manifest.json"] = rfc8785.dumps(manifest)


def reorder(files: Files) -> None:
    events = files["log/events.jsonl"].splitlines(keepends=True)
    events[10], events[11] = events[11], events[10]
    files["log/events.jsonl"] = b"".join(events)
    renumber(files)


def insert(files: Files) -> None:
    events = files["log/events.jsonl"].splitlines(keepends=True)
    files["log/events.jsonl"] = b"".join([*events[:9], events[3], *events[9:]])
    renumber(files)


def truncate(files: Files) -> None:
    """The end of the log is gone, hashes and all."""
    events = files["log/events.jsonl"].splitlines(keepends=True)
    files["log/events.jsonl"] = b"".join(events[:-5])
    files["log/hashes.bin"] = files["log/hashes.bin"][: -5 * 32]
    renumber(files)


def truncate_with_all_that_is_said(files: Files) -> None:
    """And the manifest says so, but nobody signed such a checkpoint."""
    truncate(files)
    shorter = MemoryLog(bodies(SIZE)[:-5], key=Key(2))
    manifest = json.loads(files["manifest.json"])
    root = base64.b64encode(shorter.root).decode()
    manifest["log_proof"] |= {"size": SIZE - 5, "root": root}
    files["manifest.json"] = rfc8785.dumps(manifest)
    files["log/checkpoint"] = shorter.note.encode()


def other_hashes(files: Files) -> None:
    """Event and hashes agree with each other, and not with the root."""
    edit(files)
    body = rfc8785.dumps(json.loads(files["log/events.jsonl"].splitlines()[7])["body"])
    hashes = files["log/hashes.bin"]
    files["log/hashes.bin"] = hashes[: 7 * 32] + making.leaf(body) + hashes[8 * 32 :]


def other_value(files: Files) -> None:
    files["log/disclosed.jsonl"] = files["log/disclosed.jsonl"].replace(b"192.0.2.9", b"192.0.2.8")


def other_event(files: Files) -> None:
    name = "log/disclosed.jsonl"
    files[name] = (
        files[name]
        .replace(b'"index":9,', b'"index":12,')
        .replace(b"evt_00000000000000000000000009", b"evt_00000000000000000000000012")
    )


def disclosed_twice(files: Files) -> None:
    found = files["log/disclosed.jsonl"].splitlines(keepends=True)
    files["log/disclosed.jsonl"] = b"".join([found[0], *found])


def disclosed_of_nothing(files: Files) -> None:
    found = files["log/disclosed.jsonl"].splitlines(keepends=True)
    files["log/disclosed.jsonl"] += found[-1].replace(b'"index":72', b'"index":99')


def forged_redaction(files: Files) -> None:
    """A value called erased, under a certificate that no event issued."""
    name = "log/disclosed.jsonl"
    files[name] = files[name].replace(
        making.CERTIFICATE.encode(), b"cer_00000000000000000000000002"
    )


def redaction_of_another(files: Files) -> None:
    name = "log/disclosed.jsonl"
    wrong = making.commitment(9).encode()
    files[name] = files[name].replace(making.commitment(6).encode(), wrong)


def forged_certificate(files: Files) -> None:
    forged_redaction(files)
    name, other = "log/certificates.jsonl", b"cer_00000000000000000000000002"
    files[name] = files[name].replace(making.CERTIFICATE.encode(), other)


def changed_manifest(files: Files) -> None:
    files["manifest.json"] = files["manifest.json"].replace(b"usr_ada", b"usr_eve")


def spaced_manifest(files: Files) -> None:
    files["manifest.json"] = files["manifest.json"].replace(b'"rows":3', b'"rows": 3')


def added(files: Files) -> None:
    files["data/more.csv"] = b"a\r\n"


def removed(files: Files) -> None:
    del files["data/keys.csv"]


def changed_csv(files: Files) -> None:
    files["data/keys.csv"] = files["data/keys.csv"].replace(b"key_1", b"key_9")


def changed_pdf(files: Files) -> None:
    files["summary.pdf"] = files["summary.pdf"][:-2] + b"X\n"


def no_signature(files: Files) -> None:
    del files["manifest.sig"]


def no_hashes(files: Files) -> None:
    del files["log/hashes.bin"]


def other_meta(files: Files) -> None:
    meta = json.loads(files["log/meta.json"])
    files["log/meta.json"] = rfc8785.dumps(meta | {"index": 5})


def another_checkpoint_in_meta(files: Files) -> None:
    """The proof is right, for a checkpoint of an older day."""
    meta = MemoryLog(bodies(SIZE)[:-5]).meta()
    files["log/meta.json"] = rfc8785.dumps(meta)


def cut_line(files: Files) -> None:
    files["log/events.jsonl"] = files["log/events.jsonl"][:-1]


def double_name(files: Files) -> None:
    """A reader that takes the last of two names would see another body than was hashed."""
    name = "log/events.jsonl"
    files[name] = files[name].replace(b'{"body":', b'{"body":{},"body":', 1)


def other_escapes(files: Files) -> None:
    name = "log/events.jsonl"
    files[name] = files[name].replace(b"usr_ada", b"usr\\u005fada", 1)


OUTSIDERS: list[tuple[Change, str]] = [
    (edit, "log/events.jsonl is not what was signed"),
    (delete, "log/events.jsonl is not what was signed"),
    (reorder, "manifest.json is not the one that was signed|log/events.jsonl is not"),
    (changed_csv, "data/keys.csv is not what was signed"),
    (changed_pdf, "summary.pdf is not what was signed"),
    (added, "data/more.csv was added"),
    (removed, "data/keys.csv was removed"),
    (changed_manifest, "manifest.json is not the one that was signed"),
    (spaced_manifest, "manifest.json is not the one that was signed"),
    (no_signature, "manifest.sig is missing"),
    (no_hashes, "log/hashes.bin was removed"),
    (other_value, "log/disclosed.jsonl is not what was signed"),
]
INSIDERS: list[tuple[Change, str]] = [
    (edit, "event 7 is not what the log holds at that place"),
    (delete, "not contiguous: event 30 is not in its place"),
    (delete_and_count_anew, "event 30 is not what the log holds"),
    (reorder, "event 10 is not what the log holds"),
    (insert, "not within the log|event 9 is not what the log holds"),
    (truncate, "not as long as the log"),
    (truncate_with_all_that_is_said, "log/checkpoint is not signed by the key that you gave"),
    (other_hashes, "root of log/hashes.bin is not the checkpoint's"),
    (other_value, "event 9: what is said of 'request.ip' is not what the event commits to"),
    (other_event, "event 12: what is said of 'request.ip' is not what the event commits to"),
    (disclosed_twice, "event 0: what is said of"),
    (disclosed_of_nothing, "speaks of an event 99 that has none"),
    (forged_redaction, "event 6: .*no event of the log issued its certificate"),
    (redaction_of_another, "event 6: .*not what the event commits to"),
    (forged_certificate, "event 73 is not what the log holds"),
    (spaced_manifest, ""),
    (other_meta, "not included in the log of checkpoints"),
    (another_checkpoint_in_meta, "log/meta.json speaks of another checkpoint"),
    (no_hashes, ""),
    (cut_line, "ends within a line|manifest says"),
    (double_name, "event 0 is not what the log holds"),
    (other_escapes, "event 0 is not what the log holds"),
]


@pytest.mark.parametrize(
    ("change", "reason"), OUTSIDERS, ids=lambda one: getattr(one, "__name__", "")
)
def test_an_outsider_is_caught(honest: Path, tmp_path: Path, change: Change, reason: str) -> None:
    report = check(forge(honest, tmp_path / "forged.zip", change))
    assert report.exit_code() == stoa_verify.TAMPERED
    assert re.search(reason, reasons(report)), reasons(report)


@pytest.mark.parametrize(
    ("change", "reason"), INSIDERS, ids=lambda one: getattr(one, "__name__", "")
)
def test_an_insider_is_caught(honest: Path, tmp_path: Path, change: Change, reason: str) -> None:
    report = check(forge(honest, tmp_path / "forged.zip", change, Key()))
    if change is spaced_manifest:  # signed anew, it is written canonically anew
        assert report.exit_code() == stoa_verify.OK
        return
    assert report.exit_code() == stoa_verify.TAMPERED, report.checks
    assert re.search(reason, reasons(report)), reasons(report)


def test_another_key_signs_nothing(honest: Path, tmp_path: Path) -> None:
    """Swapped for a key of the same name, or said to be the key in the bundle itself."""
    forged = make(tmp_path / "forged.zip", MemoryLog(bodies(SIZE), key=Key(2)))
    said = "manifest.sig is not signed by the key that you gave"
    assert reasons(check(forged)) == said
    assert check(forged, Key(2)).exit_code() == stoa_verify.OK
    assert check(forged, Key(1), Key(2)).exit_code() == stoa_verify.OK  # both, as a key changes
    assert reasons(check(honest, Key(2))) == said
    renamed = Key(1, "stoa.example.com")
    assert reasons(check(honest, renamed)) == said


def test_what_was_signed_for_another_log_or_kind_is_not_taken(honest: Path, tmp_path: Path) -> None:
    class Lax(Key):
        def manifest(self, kind: str, sha256: str, log: str) -> str:
            return super().manifest("other", sha256, log)

    report = check(forge(honest, tmp_path / "forged.zip", lambda files: None, Lax()))
    assert "for another log or another kind" in reasons(report)


def kept(folder: Path, log: MemoryLog, name: str = "kept") -> Path:
    path = folder / name
    path.write_text(log.note)
    return path


def test_a_log_that_grew_is_told_from_one_that_was_rewritten(honest: Path, tmp_path: Path) -> None:
    for size in (0, 1, 33, 64, SIZE):
        earlier = kept(tmp_path, MemoryLog(bodies(SIZE)[:size]))
        for options in ({"previous": (earlier,)}, {"witnesses": (earlier,)}):
            assert check(honest, **options).exit_code() == stoa_verify.OK
    other = (making.event(999), *bodies(SIZE)[1:])
    for size in (1, 33, SIZE):
        earlier = kept(tmp_path, MemoryLog(other[:size]))
        for options in ({"previous": (earlier,)}, {"witnesses": (earlier,)}):
            report = check(honest, **options)
            assert report.exit_code() == stoa_verify.TAMPERED
            assert "split view" in reasons(report)


def test_a_split_view_of_two_bundles_is_caught_from_both_sides(
    honest: Path, tmp_path: Path
) -> None:
    """Each holds by itself, and both are signed by the real key."""
    rewritten = (*bodies(SIZE)[:40], making.event(40, action="api_key.revoke"), *bodies(SIZE)[41:])
    shown_to_another = make(tmp_path / "other.zip", MemoryLog(rewritten), openings=[])
    longer = make(tmp_path / "longer.zip", MemoryLog((*rewritten, making.event(SIZE))), openings=[])
    same = make(tmp_path / "same.zip", MemoryLog((*bodies(SIZE), making.event(SIZE))))
    for mine, other in (
        (honest, shown_to_another),
        (shown_to_another, honest),
        (honest, longer),
        (longer, honest),
    ):
        assert check(mine).exit_code() != stoa_verify.TAMPERED
        report = check(mine, witnesses=(other,))
        assert report.exit_code() == stoa_verify.TAMPERED
        assert "split view" in reasons(report)
    assert check(honest, witnesses=(same,)).exit_code() == stoa_verify.OK


def test_an_old_checkpoint_is_not_taken_for_the_newest(honest: Path, tmp_path: Path) -> None:
    newer = kept(tmp_path, MemoryLog((*bodies(SIZE), making.event(SIZE))))
    report = check(honest, previous=(newer,))
    assert report.exit_code() == stoa_verify.TAMPERED
    assert "had 76 events when you looked last, the bundle shows only 75" in reasons(report)
    report = check(honest, witnesses=(newer,))
    assert report.exit_code() == stoa_verify.INCOMPLETE
    assert "cannot be compared" in reasons(report, "incomplete")


def test_a_checkpoint_of_another_log_or_key_does_not_count(honest: Path, tmp_path: Path) -> None:
    foreign = kept(tmp_path, MemoryLog(bodies(3), origin="stoa.example.eu/audit/platform"))
    assert "is of the log" in reasons(check(honest, previous=(foreign,)))
    forged = kept(tmp_path, MemoryLog(bodies(3), key=Key(2)))
    assert "not signed" in reasons(check(honest, witnesses=(forged,)))


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_any_flipped_bit_is_caught(honest: Path, data: st.DataObject) -> None:
    content = bytearray(honest.read_bytes())
    at = data.draw(st.integers(0, len(content) - 1))
    content[at] ^= 1 << data.draw(st.integers(0, 7))
    flipped = honest.with_name("flipped.zip")
    flipped.write_bytes(content)
    assert check(flipped).exit_code() == stoa_verify.TAMPERED, at


PROVED = ("log/events.jsonl", "log/hashes.bin", "log/checkpoint", "log/meta.json")


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_any_flipped_bit_of_the_log_is_caught_though_it_was_signed_anew(
    honest: Path, data: st.DataObject
) -> None:
    def flip(files: Files) -> None:
        name = data.draw(st.sampled_from(PROVED))
        content = bytearray(files[name])
        content[data.draw(st.integers(0, len(content) - 1))] ^= 1 << data.draw(st.integers(0, 7))
        files[name] = bytes(content)

    flipped = honest.with_name("flipped.zip")
    flipped.unlink(missing_ok=True)
    report = check(forge(honest, flipped, flip, Key()))
    assert report.exit_code() == stoa_verify.TAMPERED
