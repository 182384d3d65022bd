"""A ZIP is taken as hostile: one form alone is read, and nothing else is even looked into."""

import io
import random
import struct
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from compliance.bundles import stoa_verify
from compliance.bundles.stoa_verify import Archive, Tampered
from tests.compliance.bundles import making
from tests.compliance.bundles.making import Key, MemoryLog, bodies, check, make

Write = Callable[[zipfile.ZipFile], None]


def info(name: str, **more: object) -> zipfile.ZipInfo:
    entry = zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0))
    entry.create_system, entry.external_attr = 3, 0o100644 << 16
    for field, value in more.items():
        setattr(entry, field, value)
    return entry


def opened(content: bytes) -> Archive:
    return Archive(io.BytesIO(content))


def zipped(*entries: tuple[zipfile.ZipInfo, bytes], comment: bytes = b"") -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as bundle:
        for entry, content in entries:
            bundle.writestr(entry, content)
        bundle.comment = comment
    return file.getvalue()


def test_what_zipfile_writes_is_that_one_form() -> None:
    found = opened(zipped((info("a"), b"one"), (info("data/B.csv"), b"")))
    assert {path: found.part(path, 0, 9) for path in found.entries} == {
        "a": b"one",
        "data/B.csv": b"",
    }


def test_large_files_are_written_as_zipfile_does(monkeypatch: pytest.MonkeyPatch) -> None:
    """With limits of a few bytes in place of two gigabytes."""
    monkeypatch.setattr(zipfile, "ZIP64_LIMIT", 40)
    monkeypatch.setattr(stoa_verify, "ZIP64", 40)
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as bundle:
        for name, content in (("a", b"x" * 41), ("b", b"y")):
            with bundle.open(info(name), "w", force_zip64=len(content) > 40) as stored:
                stored.write(content)
    assert opened(file.getvalue()).part("a", 0, 99) == b"x" * 41


@pytest.mark.parametrize(
    "name",
    [
        *("/etc/passwd", "../up", "a/../../b", "a\\b", "C:x", "a//b", "./a", ".hidden", "a/"),
        *("ä", "a b", "a\nb", "x" * 201, "", "a/b/c/d/e/f", "con\x00"),
    ],
)
def test_a_name_that_leads_elsewhere_is_refused(name: str) -> None:
    content = zipped((info("placeholder"), b"x"))
    raw = name.encode()
    head = content[:26] + struct.pack("<HH", len(raw), 0) + raw
    with pytest.raises(Tampered, match=r"name is not allowed|not as bundles have it"):
        opened(head + content[41:])


@pytest.mark.parametrize("names", [("a", "a"), ("manifest.json", "Manifest.JSON")])
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_one_name_stands_once(names: tuple[str, str]) -> None:
    with pytest.raises(Tampered, match="twice"):
        opened(zipped(*((info(name), b"x") for name in names)))


@pytest.mark.parametrize(
    "entry",
    [
        info("a", compress_type=zipfile.ZIP_DEFLATED),  # a bomb has to be packed
        info("a", external_attr=0o120777 << 16),  # a symbolic link
        info("a", external_attr=0o100755 << 16),
        info("a", create_system=0),
        info("a", comment=b"hello"),
        info("a", extra=b"\x99\x99\x00\x00"),
        info("a", date_time=(2026, 1, 1, 0, 0, 0)),
    ],
    ids=["deflated", "link", "program", "system", "comment", "extra", "date"],
)
def test_an_entry_of_another_form_is_refused(entry: zipfile.ZipInfo) -> None:
    with pytest.raises(Tampered):
        opened(zipped((entry, b"0" * 1000)))


def test_nothing_may_stand_before_between_or_after_the_files() -> None:
    content = zipped((info("a"), b"one"), (info("b"), b"two"))
    second = content.index(b"PK\3\4", 4)
    for wrong in (
        b"#!" + content,
        content + b"\0",
        content[:second] + b"\0" + content[second:],
        content[:-1],
        content[:second],
        content[:40],
        zipped((info("a"), b"one"), comment=b"x"),
        b"",
        b"PK",
    ):
        with pytest.raises(Tampered):
            opened(wrong)


@pytest.mark.parametrize("size", [0, 2, 4, 0x7FFFFFFF, 0xFFFFFFFF])
def test_a_size_that_lies_is_refused(size: int) -> None:
    content = bytearray(zipped((info("a"), b"one")))
    content[18:26] = struct.pack("<LL", size, size)
    with pytest.raises(Tampered):
        opened(bytes(content))


def test_the_directory_may_not_tell_of_other_files_than_there_are() -> None:
    """Other tools go by the directory: both have to say the same."""
    content = zipped((info("a"), b"one"), (info("b"), b"two"))
    directory = content.index(b"PK\1\2")
    for wrong in (
        content[:directory] + content[directory:].replace(b"b", b"c", 1),
        content[:directory] + content[content.index(b"PK\1\2", directory + 1) :],
    ):
        with pytest.raises(Tampered, match="directory"):
            opened(wrong)


def test_huge_and_deep_json_is_refused(tmp_path: Path) -> None:
    honest = make(tmp_path / "honest.zip", MemoryLog(bodies(9)))
    for content in (b"[" * 200_000, b"{}" + b" " * stoa_verify.MAX_WHOLE, b'{"a":1e999}', b"\xff"):

        def huge(files: dict[str, bytes], content: bytes = content) -> None:
            files["log/meta.json"] = content

        forged = tmp_path / "forged.zip"
        forged.unlink(missing_ok=True)
        assert check(making.forge(honest, forged, huge, Key())).exit_code() == stoa_verify.TAMPERED


def test_a_line_without_an_end_takes_no_memory(tmp_path: Path) -> None:
    honest = make(tmp_path / "honest.zip", MemoryLog(bodies(9)))

    def endless(files: dict[str, bytes]) -> None:
        files["log/events.jsonl"] = b"x" * 5_000_000

    forged = making.forge(honest, tmp_path / "forged.zip", endless, Key())
    report = check(forged)
    assert "a line that is longer than it can be" in report.checks[-1]["detail"]


def test_whatever_the_bytes_are_there_is_a_verdict(tmp_path: Path) -> None:
    """Random damage of every size never ends in anything but a verdict."""
    content = make(tmp_path / "honest.zip", MemoryLog(bodies(9))).read_bytes()
    dice, target = random.Random(20260314), tmp_path / "damaged.zip"
    for _ in range(150):
        start = dice.randrange(len(content))
        stop = start + dice.choice((1, 4, 30, 3000))
        middle = dice.choice((b"", dice.randbytes(stop - start), content[start:stop] * 2))
        target.write_bytes(content[:start] + middle + content[stop:])
        if target.read_bytes() != content:
            assert check(target).exit_code() == stoa_verify.TAMPERED


def test_a_large_bundle_is_checked_in_bounded_memory(tmp_path: Path) -> None:
    """150 MB of a part, by a process that may take less than that beyond what Python takes."""
    log = MemoryLog(bodies(9))
    bundle = make(tmp_path / "bundle.zip", log)

    def more(files: dict[str, bytes]) -> None:
        files["data/large.jsonl"] = b'{"a":"%b"}\n' % (b"x" * 1000) * 150_000

    large = making.forge(bundle, tmp_path / "large.zip", more, Key())
    limited = (
        "import resource, sys; resource.setrlimit(resource.RLIMIT_AS, (300 << 20, 300 << 20));"
        "sys.argv[0:1] = []; exec(compile(open(sys.argv[0]).read(), 'v', 'exec'))"
    )
    command = [
        sys.executable,
        "-I",
        "-c",
        limited,
        stoa_verify.__file__,
        f"{large}",
        "--vkey",
        Key().vkey,
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == stoa_verify.OK, done.stderr
