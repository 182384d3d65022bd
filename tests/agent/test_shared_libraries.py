"""What an engine's wheels take for granted: found, unpacked beside it, or asked for by name."""

import subprocess
from pathlib import Path

import pytest

from workers.agent import shared_libraries


def test_what_the_machine_has_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    needed = {"libc.so.6": "libc6"}
    monkeypatch.setenv("PATH", "")  # it could not fetch anything
    shared_libraries.provide(needed, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_without_apt_the_message_says_what_to_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    needed = {"libnone.so.9": "libnone9"}
    monkeypatch.setenv("PATH", "")
    with pytest.raises(shared_libraries.MissingLibrary, match="apt-get install libnone9"):
        shared_libraries.provide(needed, tmp_path)


def test_a_package_is_unpacked_into_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a real Debian archive, made here, and an apt-get that hands it out."""
    content = tmp_path / "package"
    (content / "DEBIAN").mkdir(parents=True)
    (content / "DEBIAN" / "control").write_text(
        "Package: libnone9\nVersion: 1\nArchitecture: all\n"
        "Maintainer: tests <tests@example.eu>\nDescription: nothing\n"
    )
    (content / "usr" / "lib").mkdir(parents=True)
    (content / "usr" / "lib" / "libnone.so.9.1").write_text("library")
    (content / "usr" / "lib" / "libnone.so.9").symlink_to("libnone.so.9.1")
    archive = tmp_path / "libnone9.deb"
    subprocess.run(["dpkg-deb", "-b", content, archive], check=True, capture_output=True)
    tools = tmp_path / "bin"
    tools.mkdir()
    (tools / "apt-get").write_text(f"#!/bin/sh\ncp {archive} .\n")
    (tools / "apt-get").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tools}:/usr/bin:/bin")
    needed = {"libnone.so.9": "libnone9"}
    root = tmp_path / "environment"
    shared_libraries.provide(needed, root)
    assert Path(shared_libraries.folder(root), "libnone.so.9").read_text() == "library"
    (tools / "apt-get").unlink()
    shared_libraries.provide(needed, root)  # it is there: nothing to fetch
